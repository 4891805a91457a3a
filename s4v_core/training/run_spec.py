"""The description of a training run that the driver sends to every worker."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from s4v_core.training.data.collation import Collator
from s4v_core.training.data.order import Order
from s4v_core.training.estimate.flops import Shape
from s4v_core.training.stage import TrainStage


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that a worker needs to know about its run.

    Attributes:
        job: The stage to train; its device is decided ("cpu" or "cuda").
        output: Absolute URI of the run's folder.
        digest: Identifies the run: a digest of its settings and its samples.
        model: Folder, URI or hub id of the checkpoint to start from, the same on every node.
        samples: URI of the table of samples.
        samples_sha256: Digest of that table.
        collator: Makes micro-batches for this model.
        shape: The model's sizes, from which operations are counted.
        order: Decides which samples make up which step.
        steps: Number of steps of the whole run.
        left_out: Numbers of the samples that the user leaves out of the rest of the run.
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
    left_out: frozenset[int] = frozenset()

    @property
    def planned_samples(self) -> int:
        """Number of samples of all steps of the run, those of every epoch counted."""
        epochs, steps = divmod(self.steps, self.order.steps_per_epoch)
        return epochs * len(self.order.has_image) + steps * self.order.batch_size


def build_order(job: TrainStage, samples: str) -> Order:
    """Build the order of a run over the table of samples at the local path `samples`."""
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
