"""The description of a training run that the driver sends to every worker."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.training.arithmetic.flops import Shape
from s4v_core.training.data.collation import Collator
from s4v_core.training.data.order import Order
from s4v_core.training.evaluation_records import DueSteps
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
        framing: How an image becomes the picture that the collator takes.
        shape: The model's sizes, from which operations are counted; None if they are not, because
            images differ in size.
        order: Decides which samples make up which step.
        steps: Number of steps of the whole run.
        left_out: Numbers of the samples that the user leaves out of the rest of the run.
        due: The steps whose checkpoints are evaluated beside the run, and kept until then; None if
            none is.
    """

    job: TrainStage
    output: str
    digest: str
    model: str
    samples: str
    samples_sha256: str
    collator: Collator
    framing: Framing
    shape: Shape | None
    order: Order
    steps: int
    left_out: frozenset[int] = frozenset()
    due: DueSteps | None = None

    @property
    def planned_samples(self) -> int:
        """Number of samples of all steps of the run, those of every epoch counted."""
        return count_samples(self.order, self.steps)


def count_samples(order: Order, steps: int) -> int:
    """Number of samples of the first steps of an order, those of every epoch counted."""
    epochs, rest = divmod(steps, order.steps_per_epoch)
    return epochs * order.samples_per_epoch + rest * order.batch_size


def build_order(job: TrainStage, samples: str) -> Order:
    """Build the order of a run over the table of samples at the local path `samples`.

    Raises:
        ConfigError: All samples are held out.
    """
    with pa.memory_map(samples) as file:
        table = pa.ipc.open_file(file).read_all()
        has_image = pc.list_value_length(table["images"]).to_numpy() > 0
    return order_samples(job, has_image.astype(np.bool_))


def order_samples(job: TrainStage, has_image: NDArray[np.bool_]) -> Order:
    """The order of a run over samples of which it is known whether they have an image.

    Raises:
        ConfigError: All samples are held out.
    """
    order = Order(
        has_image,
        job.batch_size,
        job.seed,
        job.epochs,
        job.group_by_modality,
        job.validation_share,
    )
    if len(has_image) and order.samples_per_epoch < 1:
        raise ConfigError(
            f"validation_share: found {job.validation_share} of {len(has_image)} samples, which "
            "leaves none to train on; give a smaller share"
        )
    return order
