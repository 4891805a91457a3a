"""The training loop of one worker. Runs under Ray Train, and without Ray in one process.

What is computed in a step follows from the seed and the step's number alone; a run goes on after
any interruption as if there had been none.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, locate_checkpoint
from s4v_core.errors import TrainingError
from s4v_core.images.policy import Framing
from s4v_core.training.assignment import Run
from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.data.loader import StepReader, read_steps
from s4v_core.training.data.samples import local_samples
from s4v_core.training.estimate.flops import peak_flops
from s4v_core.training.schedule import learning_rate
from s4v_core.training.stage import Optimiser, TrainStage
from s4v_core.training.worker.checkpoints import Checkpoints, Manifest, complete_checkpoints
from s4v_core.training.worker.desk import Desk
from s4v_core.training.worker.seen import SeenLog, forget_from
from s4v_core.training.worker.sharding import build_sharded
from s4v_core.training.worker.step_metrics import MetricsLog, StepMetrics
from s4v_core.training.worker.world import World

LEAVING_EVERY_STEPS = 10
"""Asking whether a machine is leaving makes all workers wait for each other."""


def train(run: Run, world: World, desk: Desk) -> None:
    """Train until the last step, or until the desk asks to stop; then everything is durable.

    Raises:
        ConfigError: The start model is another than its config says.
        StorageError: A checkpoint cannot be written.
        TrainingError: The loss is no number any more.
    """
    worker = _Worker(run, world, desk)
    worker.restore()
    steps = range(worker.done, run.steps)
    batches = read_steps(worker.reader, steps, run.job.loader_workers)
    for step, waited, batch in _timed(steps, batches):
        worker.compute(step, batch, waited)
        if worker.should_stop:
            break
    worker.finish()


class _Worker:
    """One worker in the middle of a run.

    Attributes:
        done: Steps that are done.
        should_stop: Agreed by all workers in the last step.
    """

    def __init__(self, run: Run, world: World, desk: Desk) -> None:
        job = run.job
        self.run, self.world, self.desk = run, world, desk
        self.done = self.samples = self.tokens = 0
        self.should_stop = False
        dtype = torch.bfloat16 if _precision(job, world) == "bf16" else torch.float32
        torch.set_float32_matmul_precision("high")  # tf32 on GPUs, as the original
        with storage.patience(storage.UNIT_PATIENCE_S):
            folder, _ = locate_checkpoint(run.model, (*SETTINGS, *WEIGHTS))
        self.step = build_sharded(
            folder, job.learning, world.mesh, dtype, job.activation_checkpointing
        )
        self.parameters = [p for p in self.step.parameters() if p.requires_grad]
        self.optimiser = adamw(self.parameters, job.optimiser)
        self.checkpoints = Checkpoints(run.output, job.saving.keep, world)
        self.reader = StepReader(
            local_samples(run.samples, run.samples_sha256),
            run.order,
            run.collator,
            Framing(job.image_mode, run.collator.side_px),
            world.rank,
            world.size,
            job.device_batch_size,
        )
        self._saved_at = time.monotonic()
        self._left = False
        self._paused = 0.0
        peak = peak_flops(torch.cuda.get_device_name()) if world.device.type == "cuda" else None
        self._peak = peak and peak * world.size

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = complete_checkpoints(self.run.output)
        if found:
            newest = found[-1]
            self.checkpoints.restore(newest, self.step, self.optimiser)
            self.done, self.samples, self.tokens = newest.step, newest.samples, newest.tokens
        self.saved = self.done
        if self.world.leads:
            forget_from(self.run.output, self.done)
            self.metrics = MetricsLog(self.run.output, self.done + 1)
        self.world.wait()
        self.seen = SeenLog(self.run.output, self.world.rank, self.done)
        self._logged_at = time.monotonic()

    def compute(self, step: int, batches: list[MicroBatch], waited: float) -> None:
        """One optimiser step over the micro-batches of this worker."""
        # The same draws in every life of the run, whatever modules draw; LLaVA-1.5 draws none.
        torch.manual_seed(hash((self.run.job.seed, step, self.world.rank)) % 2**63)
        totals = _Totals(*self.world.summed(*self._own(batches)))
        loss = self._backward(batches, max(totals.learnt, 1))
        norm = self._clipped()
        [loss, waited] = self.world.summed(loss, waited / self.world.size)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(step + 1, f"the loss is {loss}, its gradient {norm}")
        rate = learning_rate(step, self.run.steps, self.run.job.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.seen.add(step, batches)
        self.done = step + 1
        self.samples += int(totals.samples)
        self.tokens += int(totals.tokens)
        self.should_stop = totals.stop > 0
        if self.world.leads:
            self._log(totals, loss, norm, rate, waited)
        self._paused = self._save_if_due(totals)  # behind the log: a checkpoint keeps its metrics

    def finish(self) -> None:
        """Save what is not saved yet, and wait until everything is durable."""
        if self.done > self.saved:
            self._save()
        self.checkpoints.settle()
        if self.world.leads:
            self.metrics.close()
        self.world.wait()

    def _own(self, batches: list[MicroBatch]) -> tuple[float, ...]:
        job, leads = self.run.job, self.world.leads
        due = leads and time.monotonic() - self._saved_at > 60 * job.saving.every_min
        leaving = self.done % LEAVING_EVERY_STEPS == 0 and self.desk.is_machine_leaving()
        if leaving and not self._left:
            self._left, due = True, True
        return (
            sum(batch.learnt for batch in batches),
            sum(batch.tokens for batch in batches),
            sum(batch.places for batch in batches),
            sum(batch.images for batch in batches),
            sum(len(batch.numbers) for batch in batches),
            sum(len(batch.skipped) for batch in batches),
            sum(self._flops(batch) for batch in batches),
            float(due),
            float(leads and self.desk.is_stop_asked()),
        )

    def _flops(self, batch: MicroBatch) -> float:
        learning, shape = self.run.job.learning, self.run.shape
        passes = 3 if learning.language else 2
        text = sum(shape.language_flops(tokens) for tokens in batch.lengths)
        image = shape.image_flops(learning.vision_from, learning.vision_stem, learning.projector)
        return passes * text + batch.images * image

    def _backward(self, batches: list[MicroBatch], learnt: float) -> float:
        """Gradients of the mean over all learnt tokens of the step; returns this worker's part."""
        loss = 0.0
        for batch in batches:
            tensors = (batch.ids_RT, batch.positions_RT, batch.labels_RT, batch.pixels_NSS3)
            part = self.step(*(t.to(self.world.device, non_blocking=True) for t in tensors))
            part = part / learnt
            part.backward()
            loss += float(part.detach())
        return loss

    def _clipped(self) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.run.job.optimiser.clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _save_if_due(self, totals: "_Totals") -> float:
        """Save where it is time to; returns the seconds that training stood still."""
        started = time.monotonic()
        every = self.run.job.saving.every_steps
        if totals.save or (every and self.done % every == 0):
            self._save()
        else:
            self.checkpoints.poll()
        return time.monotonic() - started

    def _save(self) -> None:
        self.seen.write(self.done)
        self.world.wait()  # what was seen is durable before its checkpoint is
        manifest = Manifest(self.done, self.run.digest, self.samples, self.tokens)
        self.checkpoints.save(manifest, self.step, self.optimiser)
        self.saved = self.done
        self._saved_at = time.monotonic()
        if self.world.leads:
            self.metrics.flush()

    def _log(self, totals: "_Totals", loss: float, norm: float, rate: float, waited: float) -> None:
        now = time.monotonic()
        # The next step pays for this record: writing and telling it take time as well.
        step_s, self._logged_at = now - self._logged_at, now
        on_gpu = self.world.device.type == "cuda"
        metrics = StepMetrics(
            step=self.done,
            epoch=(self.done - 1) // self.run.order.steps_per_epoch,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            samples=int(totals.samples),
            skipped=int(totals.skipped),
            images=int(totals.images),
            tokens=int(totals.tokens),
            learnt_tokens=int(totals.learnt),
            padding_share=1 - totals.tokens / totals.places,
            step_s=step_s,
            data_wait_s=waited,
            checkpoint_wait_s=self._paused,
            images_per_s=totals.images / step_s,
            tokens_per_s=totals.tokens / step_s,
            mfu=totals.flops / step_s / self._peak if self._peak else None,
            memory_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        )
        self.metrics.add(metrics)
        self.desk.tell(metrics)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Of one step, over all workers. `save` and `stop` are more than 0 where one wants it."""

    learnt: float
    tokens: float
    places: float
    images: float
    samples: float
    skipped: float
    flops: float
    save: float
    stop: float


def _precision(job: TrainStage, world: World) -> str:
    if job.precision != "auto":
        return job.precision
    return "bf16" if world.device.type == "cuda" else "fp32"


def adamw(parameters: list[torch.nn.Parameter], settings: Optimiser) -> torch.optim.AdamW:
    """As a stage asks for it; the bare loop of the benchmark has the same."""
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _timed(
    steps: range, batches: Iterator[list[MicroBatch]]
) -> Iterator[tuple[int, float, list[MicroBatch]]]:
    """Steps with their batches and the seconds that were waited for them."""
    for step in steps:
        started = time.monotonic()
        batch = next(batches)
        yield step, time.monotonic() - started, batch
