"""All that a worker needs to score how well texts fit images."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """Everything that a worker needs to score pairs. Small and picklable.

    Attributes:
        model: Folder, URI or hub id of a CLIP or SigLIP checkpoint.
        revision: Commit, hash or etag of its files.
        batch_size: Most pairs that are scored together.
        prefix: Text in front of every piece of a caption.
    """

    model: str
    revision: str
    device: Literal["gpu", "cpu"]
    batch_size: int = 32
    prefix: str = ""
