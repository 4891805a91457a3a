"""Makes the record of each step, on the leading worker, and hands it to the log and the session."""

import time
from dataclasses import dataclass

import torch

from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.worker.components import find_total_peak_flops, open_trackers
from s4v_core.training.worker.session import Session
from s4v_core.training.worker.step_metrics import MetricsLog, StepMetrics
from s4v_core.training.worker.step_totals import StepTotals
from s4v_core.training.worker.validation import HeldOutLoss
from s4v_core.training.worker.world import World


@dataclass(frozen=True, slots=True)
class Computed:
    """The results of a step; all are 0 if it had no token to learn.

    Attributes:
        loss: Mean over all tokens that carry loss.
        grad_norm: Norm of the whole gradient before clipping.
        learning_rate: Learning rate of the step.
        data_wait_s: Seconds that a worker waited for its samples, on average.
    """

    loss: float = 0.0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    data_wait_s: float = 0.0


class StepRecorder:
    """Records the steps of a run.

    Args:
        first_step: The step to continue with, from 1.
    """

    def __init__(self, spec: RunSpec, world: World, session: Session, first_step: int) -> None:
        self._spec, self._world, self._session = spec, world, session
        self._peak_flops = find_total_peak_flops(world)
        self._log = MetricsLog(spec.output, first_step, open_trackers(spec))
        self._recorded_at = time.monotonic()

    def record(
        self,
        done: int,
        totals: StepTotals,
        computed: Computed,
        held_out: HeldOutLoss,
        checkpoint_wait_s: float,
    ) -> None:
        """Record a step.

        Args:
            done: Number of the step, from 1.
            checkpoint_wait_s: Seconds for which training was paused for the checkpoint before.
        """
        now = time.monotonic()
        # The time to write and report this record is charged to the next step.
        step_s, self._recorded_at = now - self._recorded_at, now
        training_s = step_s - held_out.seconds
        on_gpu = self._world.device.type == "cuda"
        metrics = StepMetrics(
            step=done,
            epoch=(done - 1) // self._spec.order.steps_per_epoch,
            loss=computed.loss,
            learning_rate=computed.learning_rate,
            grad_norm=computed.grad_norm,
            samples=int(totals.samples),
            skipped=int(totals.skipped),
            images=int(totals.images),
            tokens=int(totals.tokens),
            learnt_tokens=int(totals.learnt),
            padding_share=totals.padding_share,
            step_s=step_s,
            data_wait_s=computed.data_wait_s,
            checkpoint_wait_s=checkpoint_wait_s,
            images_per_s=totals.images / training_s,
            tokens_per_s=totals.tokens / training_s,
            mfu=self._compute_mfu(totals.flops, training_s),
            memory_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            validation_loss=held_out.loss,
            validation_s=held_out.seconds,
        )
        self._log.add(metrics)
        self._session.report_step(metrics)

    def flush(self) -> None:
        """Make all recorded steps durable."""
        self._log.flush()

    def close(self) -> None:
        self._log.close()

    def _compute_mfu(self, flops: float, seconds: float) -> float | None:
        """Model FLOP utilisation; None if the operations or the devices' peak are not known."""
        return flops / seconds / self._peak_flops if flops and self._peak_flops else None


def count_batch_flops(spec: RunSpec, batch: MicroBatch) -> float:
    """Operations of a micro-batch, forward and backward; 0 if they are not known."""
    learning, shape = spec.job.learning, spec.shape
    if shape is None:
        return 0.0
    passes = 3 if learning.language and not spec.job.lora.rank else 2
    text = sum(shape.count_language_flops(tokens) for tokens in batch.lengths)
    image = shape.count_image_flops(learning.vision_from, learning.vision_stem, learning.projector)
    return passes * text + batch.images * image
