"""The quality column: settings of the score of how well a caption fits its image."""

from typing import Literal

from pydantic import Field

from s4v_core.config import Config


class Quality(Config):
    """A score of how well each caption fits its image, computed beside the engine."""

    model: str | None = None
    """CLIP or SigLIP checkpoint that scores every caption: a folder on any URI, or a hub id. The
    score is the column quality: CLIPScore (2.5 x cosine, 0 to 2.5) of a CLIP, the probability that
    both belong together (0 to 1) of a SigLIP. Default: no scores."""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """Device of the scorer; auto takes the GPU that the engine is on, else the CPU."""
    batch_size: int = Field(32, ge=1)
    """Most captions that are scored together."""
    prefix: str = ""
    """Text in front of what is scored. The published CLIPScore takes 'A photo depicts '."""
