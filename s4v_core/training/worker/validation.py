"""Measures the loss of the samples that are held out of training."""

import time
from dataclasses import dataclass

import torch

from s4v_core.errors import StorageError
from s4v_core.training.data.loader import StepReader, read_steps
from s4v_core.training.worker.fsdp_units import free_gathered
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.world import World


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """The loss of the held-out samples after one step.

    Attributes:
        loss: Mean over all their tokens that carry loss; None if no sample could be read.
        seconds: Seconds that it took.
    """

    loss: float | None
    seconds: float


class Validation:
    """Measures the loss of held-out samples, the same ones in the same order each time.

    All workers must call it at the same steps. Their shares are added up, so that any number of
    workers gives the same loss.

    Args:
        reader: Reads this worker's share of the held-out samples, in parts of a step's size.
        parts: Number of these parts.
        loader_workers: Number of processes that read ahead.
        every_steps: Steps between two measurements.
        last_step: Number of the run's last step, after which there is a measurement in any case.
    """

    def __init__(
        self, reader: StepReader, parts: int, loader_workers: int, every_steps: int, last_step: int
    ) -> None:
        self._reader, self._parts = reader, parts
        self._loader_workers = loader_workers
        self._every_steps, self._last_step = every_steps, last_step

    def is_due(self, done: int) -> bool:
        """Whether the loss is measured after this many steps."""
        return done % self._every_steps == 0 or done == self._last_step

    @torch.no_grad()
    def measure(self, module: LossModule, world: World) -> HeldOutLoss:
        """Measure the loss with the present weights.

        Raises:
            StorageError: The store of the samples does not answer.
        """
        started = time.monotonic()
        total = torch.zeros((), dtype=torch.float64, device=world.device)
        learnt = 0
        for batches in read_steps(self._reader, range(self._parts), self._loader_workers):
            if isinstance(batches, StorageError):
                raise batches
            for batch in batches:
                total += module(batch.to(world.device)).double()
                learnt += batch.learnt
        free_gathered(module)
        summed = world.sum_over_workers({"loss": float(total), "learnt": float(learnt)})
        loss = summed["loss"] / summed["learnt"] if summed["learnt"] else None
        return HeldOutLoss(loss, time.monotonic() - started)
