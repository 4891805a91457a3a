"""The training loop of one worker. It runs under Ray Train, and without Ray in one process.

A step's computation depends on the seed and the step's number alone, so an interrupted and resumed
run gives the same numbers as one that was never interrupted.
"""

import math
import time
from typing import NoReturn

import torch
from torch.distributed.tensor import DTensor

from s4v_core import storage
from s4v_core.errors import S4VError
from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.schedule import compute_learning_rate
from s4v_core.training.worker.checkpoints import Checkpoints, Manifest
from s4v_core.training.worker.components import (
    build_module,
    build_optimiser,
    build_reader,
    build_validation,
)
from s4v_core.training.worker.sample_log import SampleLog, discard_after
from s4v_core.training.worker.sample_watch import SampleWatch
from s4v_core.training.worker.save_clock import SaveClock
from s4v_core.training.worker.session import Session
from s4v_core.training.worker.step_feed import FedStep, StepFeed
from s4v_core.training.worker.step_recorder import Computed, StepRecorder, count_batch_flops
from s4v_core.training.worker.step_totals import StepTotals, count_step
from s4v_core.training.worker.stops import explain_lost_samples, explain_no_number, share_error
from s4v_core.training.worker.validation import HeldOutLoss
from s4v_core.training.worker.world import World


def train(spec: RunSpec, world: World, session: Session) -> None:
    """Train until the last step, or until the session requests a stop. Then everything is durable.

    An error that all workers notice together is raised after a checkpoint of the steps before.

    Raises:
        ConfigError: The weights of the start model do not fit its config.
        StorageError: A checkpoint cannot be written, or a store with images does not answer.
        TrainingError: Too many samples are lost, or the loss or its gradient is not a finite
            number; nothing of that step was applied.
    """
    with storage.patience(spec.job.store_patience_s):
        worker = _Worker(spec, world, session)
        steps = range(worker.done, spec.steps)
        reader = build_reader(spec, world)
        feed = StepFeed(reader, steps, spec.job.loader_workers, session.ask_for_stop)
        try:
            for fed in feed:
                worker.compute_step(fed)
                if worker.should_stop:
                    break
            worker.finish()
        finally:
            feed.close()


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
        self._validation = build_validation(spec, world)
        self._clock = SaveClock(job, session, world.is_leader)
        self._checkpoints = Checkpoints(
            spec.output,
            job.saving.keep,
            world,
            job.store_patience_s,
            learning_only=job.lora.rank > 0,
            is_awaited=spec.due.is_awaited if spec.due else lambda step: False,
        )
        start = self._checkpoints.restore_newest(self._module, self._optimiser)
        start = start or Manifest(step=0, digest=spec.digest, samples=0, tokens=0)
        self.done = self._saved = start.step
        self._samples, self._tokens = start.samples, start.tokens
        self._watch = SampleWatch(job.max_missing_share, spec.planned_samples, start.lost)
        self._recorder: StepRecorder | None = None
        if world.is_leader:
            discard_after(spec.output, self.done)
            self._recorder = StepRecorder(spec, world, session, self.done + 1)
        world.wait_for_all()
        self._sample_log = SampleLog(spec.output, world.rank, self.done)
        self.should_stop = False
        self._checkpoint_wait_s = 0.0

    def compute_step(self, fed: FedStep) -> None:
        """Make one optimiser step over this worker's micro-batches.

        Raises:
            StorageError, TrainingError: See `train`; the steps before are durable.
        """
        step = fed.step
        # Whatever module draws random numbers, a resumed run draws the same ones; LLaVA-1.5 draws
        # none.
        torch.manual_seed(hash((self._spec.job.seed, step, self._world.rank)) % 2**63)
        totals = self._count_step(fed).sum_over(self._world)
        if totals.absent or fed.batches is None:
            self._end_without(fed)
            return
        if problem := self._watch.find_problem(totals):
            self._stop(explain_lost_samples(self._spec, self._world, fed, problem))
        if not totals.learnt:  # the user leaves out all of its samples
            self._finish_step(fed, fed.batches, totals, Computed())
            return
        own_loss = self._run_backward(fed.batches, totals.learnt)
        grad_norm = self._clip_gradients()
        summed = self._world.sum_over_workers(
            {"loss": own_loss, "waited_s": fed.waited_s / self._world.size}
        )
        loss = summed["loss"]
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            self._stop(
                explain_no_number(self._spec, self._world, self._module, step, loss, grad_norm)
            )
        learning_rate = self._update_weights(step)
        computed = Computed(loss, grad_norm, learning_rate, summed["waited_s"])
        self._finish_step(fed, fed.batches, totals, computed)

    def _finish_step(
        self,
        fed: FedStep,
        batches: list[MicroBatch],
        totals: StepTotals,
        computed: Computed,
    ) -> None:
        """Record a step and save a checkpoint if it is due. A step without a loss changed
        nothing."""
        self._sample_log.add(fed.step, batches)
        self.done = fed.step + 1
        self._samples += int(totals.samples)
        self._tokens += int(totals.tokens)
        self.should_stop = totals.stop_requests > 0
        held_out = HeldOutLoss(None, 0.0)
        if self._validation and self._validation.is_due(self.done):
            held_out = self._validation.measure(self._module, self._world)
        if self._recorder:
            self._recorder.record(self.done, totals, computed, held_out, self._checkpoint_wait_s)
        # After the log, so that a checkpoint also makes its last step's metrics durable.
        self._checkpoint_wait_s = self._save_if_due(totals)

    def _end_without(self, fed: FedStep) -> None:
        """End the run before a step that some worker could not read, or no longer waits for."""
        error = share_error(self._world, fed.error)
        if error is not None:
            self._stop(error)
        self.should_stop = True

    def _stop(self, error: S4VError) -> NoReturn:
        """Save the steps before, and raise the error. All workers must call it together."""
        self._optimiser.zero_grad()
        self.finish()
        raise error

    def finish(self) -> None:
        """Save what is not saved yet, and wait until everything is durable."""
        if self.done > self._saved:
            self._save()
        self._checkpoints.wait_until_durable()
        if self._recorder:
            self._recorder.close()
        self._world.wait_for_all()

    def _count_step(self, fed: FedStep) -> StepTotals:
        return count_step(
            fed.batches,
            flops=sum(count_batch_flops(self._spec, batch) for batch in fed.batches or ()),
            should_save=self._clock.wants_save(),
            should_stop=self._world.is_leader and self._session.is_stop_requested(),
            should_check_drain=self._clock.wants_drain_check(),
        )

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
        if self._clock.is_save_due(self.done, totals):
            self._save()
        else:
            self._checkpoints.poll()
        return time.monotonic() - started

    def _save(self) -> None:
        self._sample_log.write(self.done)
        self._world.wait_for_all()  # every worker's sample log is durable before the checkpoint
        manifest = Manifest(
            self.done, self._spec.digest, self._samples, self._tokens, self._watch.lost
        )
        self._checkpoints.save(manifest, self._module, self._optimiser)
        self._saved = self.done
        self._clock.mark_saved()
        if self._recorder:
            self._recorder.flush()
