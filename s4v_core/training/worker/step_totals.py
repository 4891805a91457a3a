"""The counts of one training step, and their sum over all workers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.worker.world import World


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Counts of one step: of one worker, or of all workers once they are summed.

    Attributes:
        learnt: Tokens that carry loss.
        tokens: Tokens, image tokens included and padding excluded.
        places: Computed positions, padding included.
        images: Real images.
        samples: Samples, including the skipped ones.
        skipped: Samples whose image could not be read.
        flops: Floating-point operations that the model needs for the step.
        save_requests: Workers that want a checkpoint after this step.
        stop_requests: Workers that want the run to end after this step.
    """

    learnt: float
    tokens: float
    places: float
    images: float
    samples: float
    skipped: float
    flops: float
    save_requests: float
    stop_requests: float

    def sum_over(self, world: World) -> "StepTotals":
        """The totals of all workers; every worker must call it, and gets the same result."""
        return StepTotals(**world.sum_over_workers(asdict(self)))

    @property
    def padding_share(self) -> float:
        """Share of the computed positions that is padding."""
        return 1 - self.tokens / self.places


def count_step(
    batches: Sequence[MicroBatch], flops: float, should_save: bool, should_stop: bool
) -> StepTotals:
    """Count one worker's micro-batches of a step."""
    return StepTotals(
        learnt=sum(batch.learnt for batch in batches),
        tokens=sum(batch.tokens for batch in batches),
        places=sum(batch.places for batch in batches),
        images=sum(batch.images for batch in batches),
        samples=sum(len(batch.numbers) for batch in batches),
        skipped=sum(len(batch.skipped) for batch in batches),
        flops=flops,
        save_requests=float(should_save),
        stop_requests=float(should_stop),
    )
