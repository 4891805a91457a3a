"""What the driver hands to every worker of a run."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from s4v_core.training.data.collation import Collator
from s4v_core.training.data.order import Order
from s4v_core.training.estimate.flops import Shape
from s4v_core.training.stage import TrainStage


@dataclass(frozen=True, slots=True)
class Run:
    """All that a worker needs to know.

    Attributes:
        output: Absolute.
        digest: Of job and samples.
        model: Folder, URI or hub id of the checkpoint to start from, the same on every node.
        samples, samples_sha256: URI of the table of samples, and what it holds.
        steps: Of the whole run.
    """

    job: TrainStage
    output: str
    digest: str
    model: str
    samples: str
    samples_sha256: str
    collator: Collator
    shape: Shape
    order: Order
    steps: int


def order_of(job: TrainStage, samples: str) -> Order:
    """The order of a run over a table of samples."""
    with pa.memory_map(samples) as file:
        table = pa.ipc.open_file(file).read_all()
        has_image = table["uri"].is_valid().to_numpy(zero_copy_only=False)
    return Order(
        has_image.astype(np.bool_),
        job.batch_size,
        job.seed,
        job.epochs,
        job.group_by_modality,
    )
