"""The counts of one training step, and their sum over all workers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from s4v_core.training.data.collation import LEFT_OUT, MicroBatch
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
        left_out: Samples that the user leaves out.
        flops: Floating-point operations that the model needs for the step.
        save_requests: Workers that want a checkpoint after this step.
        stop_requests: Workers that want the run to end after this step.
        drain_checks: Workers that ask to check whether a machine is about to be taken away.
        absent: Workers that have no micro-batches, because reading failed or was given up.
        samples_of: Samples of each worker, the left out ones excluded.
        skipped_of: Samples of each worker whose image could not be read.
    """

    learnt: float
    tokens: float
    places: float
    images: float
    samples: float
    skipped: float
    left_out: float
    flops: float
    save_requests: float
    stop_requests: float
    drain_checks: float
    absent: float
    samples_of: tuple[float, ...] = ()
    skipped_of: tuple[float, ...] = ()

    def sum_over(self, world: World) -> "StepTotals":
        """The totals of all workers; every worker must call it, and gets the same result."""
        sums = {name: value for name, value in asdict(self).items() if isinstance(value, float)}
        for rank in range(world.size):
            is_own = rank == world.rank
            sums[f"samples_{rank}"] = self.samples - self.left_out if is_own else 0.0
            sums[f"skipped_{rank}"] = self.skipped if is_own else 0.0
        sums = world.sum_over_workers(sums)
        samples_of = tuple(sums.pop(f"samples_{rank}") for rank in range(world.size))
        skipped_of = tuple(sums.pop(f"skipped_{rank}") for rank in range(world.size))
        return StepTotals(**sums, samples_of=samples_of, skipped_of=skipped_of)

    @property
    def padding_share(self) -> float:
        """Share of the computed positions that is padding."""
        return 1 - self.tokens / self.places


def list_unread(batches: Sequence[MicroBatch]) -> list[tuple[int, str]]:
    """Number and reason of each sample whose image could not be read; samples that the user leaves
    out are not among them."""
    return [one for batch in batches for one in batch.skipped if one[1] != LEFT_OUT]


def count_step(
    batches: Sequence[MicroBatch] | None,
    flops: float,
    should_save: bool,
    should_stop: bool,
    should_check_drain: bool,
) -> StepTotals:
    """Count one worker's micro-batches of a step; None are micro-batches that could not be read."""
    found = batches or ()
    skipped = len(list_unread(found))
    return StepTotals(
        learnt=float(sum(batch.learnt for batch in found)),
        tokens=float(sum(batch.tokens for batch in found)),
        places=float(sum(batch.places for batch in found)),
        images=float(sum(batch.images for batch in found)),
        samples=float(sum(len(batch.numbers) for batch in found)),
        skipped=float(skipped),
        left_out=float(sum(len(batch.skipped) for batch in found) - skipped),
        flops=float(flops),
        save_requests=float(should_save),
        stop_requests=float(should_stop),
        drain_checks=float(should_check_drain),
        absent=float(batches is None),
    )
