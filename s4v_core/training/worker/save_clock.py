"""Decides when a checkpoint is due: by the leading worker's clock, and once before a machine is
taken away. Clocks differ, so the leader's alone decides, through the requests of `StepTotals`."""

import time

from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.session import Session
from s4v_core.training.worker.step_totals import StepTotals

_DRAIN_CHECK_S = 5.0
"""Seconds between two checks for machines that are about to be taken away: in such a check all
workers wait for each other. A spot machine has 120 s from its notice to its end."""


class SaveClock:
    """One worker's clock since its last checkpoint."""

    def __init__(self, job: TrainStage, session: Session, is_leader: bool) -> None:
        self._saving, self._session, self._is_leader = job.saving, session, is_leader
        evaluated = job.evaluation.every_steps if job.evaluation.is_on else None
        self._every_steps = [steps for steps in (job.saving.every_steps, evaluated) if steps]
        self._saved_at = self._checked_at = time.monotonic()
        self._saved_for_drain = False

    def wants_save(self) -> bool:
        elapsed_s = time.monotonic() - self._saved_at
        return self._is_leader and elapsed_s > 60 * self._saving.every_min

    def wants_drain_check(self) -> bool:
        return self._is_leader and time.monotonic() - self._checked_at > _DRAIN_CHECK_S

    def mark_saved(self) -> None:
        self._saved_at = time.monotonic()

    def is_save_due(self, done: int, totals: StepTotals) -> bool:
        """Whether to save after `done` steps. All workers must ask, and get the same answer.

        Args:
            totals: Totals of the last step over all workers.
        """
        is_leaving = totals.drain_checks > 0 and self._is_newly_leaving()
        return (
            is_leaving
            or totals.save_requests > 0
            or any(done % steps == 0 for steps in self._every_steps)
        )

    def _is_newly_leaving(self) -> bool:
        """Whether a machine is about to be taken away and no checkpoint was saved for that."""
        self._checked_at = time.monotonic()
        is_leaving = self._session.is_machine_leaving()
        is_new = is_leaving and not self._saved_for_drain
        self._saved_for_drain = is_leaving
        return is_new
