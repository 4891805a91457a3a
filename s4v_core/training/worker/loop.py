"""The training loop of one worker. It runs under Ray Train, and without Ray in one process.

A step's computation depends on the seed and the step's number alone, so an interrupted and resumed
run gives the same numbers as one that was never interrupted.
"""

import math
import time
from collections.abc import Iterator

import torch
from torch.distributed.tensor import DTensor

from s4v_core.errors import TrainingError
from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.data.loader import read_steps
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.schedule import compute_learning_rate
from s4v_core.training.worker.checkpoints import Checkpoints, Manifest
from s4v_core.training.worker.components import (
    build_module,
    build_optimiser,
    build_reader,
    build_validation,
    find_total_peak_flops,
    open_trackers,
)
from s4v_core.training.worker.sample_log import SampleLog, discard_after
from s4v_core.training.worker.session import Session
from s4v_core.training.worker.step_metrics import MetricsLog, StepMetrics
from s4v_core.training.worker.step_totals import StepTotals, count_step
from s4v_core.training.worker.validation import HeldOutLoss
from s4v_core.training.worker.world import World

_PREEMPTION_CHECK_STEPS = 10
"""Steps between two checks for machines that are about to be taken away: in such a check all
workers wait for each other."""


def train(spec: RunSpec, world: World, session: Session) -> None:
    """Train until the last step, or until the session requests a stop. Then everything is durable.

    Raises:
        ConfigError: The weights of the start model do not fit its config.
        StorageError: A checkpoint cannot be written.
        TrainingError: The loss or its gradient is not a finite number.
    """
    reader = build_reader(spec, world)
    worker = _Worker(spec, world, session)
    steps = range(worker.done, spec.steps)
    batches = read_steps(reader, steps, spec.job.loader_workers)
    for step, waited_s, batch in _time_batches(steps, batches):
        worker.compute_step(step, batch, waited_s)
        if worker.should_stop:
            break
    worker.finish()


class _Worker:
    """One worker of a run, restored from the newest checkpoint if there is one.

    Attributes:
        done: Number of steps that are done.
        should_stop: Whether the workers agreed in the last step to end the run.
    """

    def __init__(self, spec: RunSpec, world: World, session: Session) -> None:
        job = spec.job
        torch.set_float32_matmul_precision("high")  # tf32 on GPUs, like the original
        self._spec, self._world, self._session = spec, world, session
        self._module = build_module(spec, world)
        self._parameters = [p for p in self._module.parameters() if p.requires_grad]
        self._optimiser = build_optimiser(self._parameters, job.optimiser)
        self._peak_flops = find_total_peak_flops(world)
        self._validation = build_validation(spec, world)
        self._saved_at = time.monotonic()
        self._checkpoints = Checkpoints(
            spec.output, job.saving.keep, world, learning_only=job.lora.rank > 0
        )
        start = self._checkpoints.restore_newest(self._module, self._optimiser)
        start = start or Manifest(step=0, digest=spec.digest, samples=0, tokens=0)
        self.done = self._saved = start.step
        self._samples, self._tokens = start.samples, start.tokens
        self._metrics_log: MetricsLog | None = None
        if world.is_leader:
            discard_after(spec.output, self.done)
            self._metrics_log = MetricsLog(spec.output, self.done + 1, open_trackers(spec))
        world.wait_for_all()
        self._sample_log = SampleLog(spec.output, world.rank, self.done)
        self.should_stop = False
        self._saved_for_preemption = False
        self._checkpoint_wait_s = 0.0
        self._logged_at = time.monotonic()

    def compute_step(self, step: int, batches: list[MicroBatch], waited_s: float) -> None:
        """Make one optimiser step over this worker's micro-batches.

        Args:
            waited_s: Seconds that this worker waited for the micro-batches.
        """
        # Whatever module draws random numbers, a resumed run draws the same ones; LLaVA-1.5 draws
        # none.
        torch.manual_seed(hash((self._spec.job.seed, step, self._world.rank)) % 2**63)
        totals = self._count_step(batches).sum_over(self._world)
        own_loss = self._run_backward(batches, max(totals.learnt, 1))
        grad_norm = self._clip_gradients()
        summed = self._world.sum_over_workers(
            {"loss": own_loss, "waited_s": waited_s / self._world.size}
        )
        loss = summed["loss"]
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise TrainingError(step + 1, f"the loss is {loss}, its gradient {grad_norm}")
        learning_rate = self._update_weights(step)
        self._sample_log.add(step, batches)
        self.done = step + 1
        self._samples += int(totals.samples)
        self._tokens += int(totals.tokens)
        self.should_stop = totals.stop_requests > 0
        held_out = HeldOutLoss(None, 0.0)
        if self._validation and self._validation.is_due(self.done):
            held_out = self._validation.measure(self._module, self._world)
        if self._metrics_log:
            self._log_step(
                self._metrics_log,
                totals,
                loss=loss,
                grad_norm=grad_norm,
                learning_rate=learning_rate,
                data_wait_s=summed["waited_s"],
                held_out=held_out,
            )
        # After the log, so that a checkpoint also makes its last step's metrics durable.
        self._checkpoint_wait_s = self._save_if_due(totals)

    def finish(self) -> None:
        """Save what is not saved yet, and wait until everything is durable."""
        if self.done > self._saved:
            self._save()
        self._checkpoints.wait_until_durable()
        if self._metrics_log:
            self._metrics_log.close()
        self._world.wait_for_all()

    def _count_step(self, batches: list[MicroBatch]) -> StepTotals:
        return count_step(
            batches,
            flops=sum(self._count_flops(batch) for batch in batches),
            should_save=self._should_save(),
            should_stop=self._world.is_leader and self._session.is_stop_requested(),
        )

    def _should_save(self) -> bool:
        """Whether this worker wants a checkpoint: by the leader's clock, or once before a machine
        is taken away."""
        elapsed_s = time.monotonic() - self._saved_at
        is_due = self._world.is_leader and elapsed_s > 60 * self._spec.job.saving.every_min
        is_check = self.done % _PREEMPTION_CHECK_STEPS == 0
        is_leaving = is_check and self._session.is_machine_leaving()
        if is_leaving and not self._saved_for_preemption:
            self._saved_for_preemption = True
            return True
        return is_due

    def _count_flops(self, batch: MicroBatch) -> float:
        learning, shape = self._spec.job.learning, self._spec.shape
        if shape is None:
            return 0.0
        passes = 3 if learning.language and not self._spec.job.lora.rank else 2
        text = sum(shape.count_language_flops(tokens) for tokens in batch.lengths)
        image = shape.count_image_flops(
            learning.vision_from, learning.vision_stem, learning.projector
        )
        return passes * text + batch.images * image

    def _compute_mfu(self, flops: float, seconds: float) -> float | None:
        """Model FLOP utilisation; None if the operations or the devices' peak are not known."""
        return flops / seconds / self._peak_flops if flops and self._peak_flops else None

    def _run_backward(self, batches: list[MicroBatch], learnt: float) -> float:
        """Compute the gradients of the mean loss over all learnt tokens of the step; returns this
        worker's part of that loss."""
        losses = []
        for number, batch in enumerate(batches, 1):
            # Copies of the model (HSDP) exchange their gradients once per step.
            self._module.set_requires_all_reduce(number == len(batches))
            part = self._module(batch.to(self._world.device)) / learnt
            part.backward()
            losses.append(part.detach())
        # Only here the device is waited for.
        return float(torch.stack(losses).double().sum())

    def _clip_gradients(self) -> float:
        """Scale the gradients down to the largest allowed norm; returns the norm before."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._spec.job.optimiser.clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _update_weights(self, step: int) -> float:
        """Make the optimiser's step; returns its learning rate."""
        rate = compute_learning_rate(step, self._spec.steps, self._spec.job.optimiser)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        return rate

    def _save_if_due(self, totals: StepTotals) -> float:
        """Save a checkpoint if it is due; returns the seconds for which training was paused."""
        started = time.monotonic()
        every = self._spec.job.saving.every_steps
        if totals.save_requests or (every and self.done % every == 0):
            self._save()
        else:
            self._checkpoints.poll()
        return time.monotonic() - started

    def _save(self) -> None:
        self._sample_log.write(self.done)
        self._world.wait_for_all()  # every worker's sample log is durable before the checkpoint
        manifest = Manifest(self.done, self._spec.digest, self._samples, self._tokens)
        self._checkpoints.save(manifest, self._module, self._optimiser)
        self._saved = self.done
        self._saved_at = time.monotonic()
        if self._metrics_log:
            self._metrics_log.flush()

    def _log_step(
        self,
        log: MetricsLog,
        totals: StepTotals,
        *,
        loss: float,
        grad_norm: float,
        learning_rate: float,
        data_wait_s: float,
        held_out: HeldOutLoss,
    ) -> None:
        now = time.monotonic()
        # The time to write and report this record is charged to the next step.
        step_s, self._logged_at = now - self._logged_at, now
        training_s = step_s - held_out.seconds
        on_gpu = self._world.device.type == "cuda"
        metrics = StepMetrics(
            step=self.done,
            epoch=(self.done - 1) // self._spec.order.steps_per_epoch,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            samples=int(totals.samples),
            skipped=int(totals.skipped),
            images=int(totals.images),
            tokens=int(totals.tokens),
            learnt_tokens=int(totals.learnt),
            padding_share=totals.padding_share,
            step_s=step_s,
            data_wait_s=data_wait_s,
            checkpoint_wait_s=self._checkpoint_wait_s,
            images_per_s=totals.images / training_s,
            tokens_per_s=totals.tokens / training_s,
            mfu=self._compute_mfu(totals.flops, training_s),
            memory_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            validation_loss=held_out.loss,
            validation_s=held_out.seconds,
        )
        log.add(metrics)
        self._session.report_step(metrics)


def _time_batches(
    steps: range, batches: Iterator[list[MicroBatch]]
) -> Iterator[tuple[int, float, list[MicroBatch]]]:
    """Each step with the seconds spent waiting for its batches, and the batches."""
    for step in steps:
        started = time.monotonic()
        batch = next(batches)
        yield step, time.monotonic() - started, batch
