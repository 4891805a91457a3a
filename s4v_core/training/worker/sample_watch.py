"""Watches how many samples a run loses to images that cannot be read, and says when it is too many.

It decides from counts that all workers share, so all of them decide alike and in the same step.
"""

from collections import deque

from s4v_core.training.worker.step_totals import StepTotals

_WINDOW = 1000
"""Number of latest samples that are watched on their own; whole steps."""
_SMALLEST_WINDOW = 100
"""Fewer samples than this are judged as if they were so many: one in ten means nothing yet."""


class SampleWatch:
    """Judges each step before it is computed.

    The whole run may lose the allowed share of its planned samples. Among the latest samples, of
    all workers or of one, the limit is ten times that share, or a quarter more if that is less, and
    never below a tenth: it is reached when a store fails or one machine loses its images, and not
    by chance.

    Args:
        allowed_share: Largest share of samples that may be lost.
        planned: Number of samples of the whole run.
        lost: Number of samples that the run has lost so far.
    """

    def __init__(self, allowed_share: float, planned: int, lost: int) -> None:
        self._allowed = allowed_share
        self._burst = max(min(10 * allowed_share, allowed_share + 0.25), 0.1)
        self._planned = planned
        self.lost = lost
        self._window: deque[StepTotals] = deque()

    def find_problem(self, totals: StepTotals) -> str | None:
        """Take a step into account; returns why the run must not go on, or None.

        The caller counts the step as done only if there is no problem.
        """
        self._window.append(totals)
        while sum(t.samples for t in self._window) - self._window[0].samples >= _WINDOW:
            self._window.popleft()
        lost = self.lost + int(totals.skipped)
        if totals.learnt == 0 and totals.left_out < totals.samples:
            return f"none of its {totals.samples:.0f} samples has a token to learn"
        if lost > self._allowed * self._planned:
            return (
                f"{lost} of the {self._planned} samples of the whole run would be lost, allowed "
                f"{self._allowed:.1%}"
            )
        if totals.skipped and (problem := self._find_burst()):
            return problem
        self.lost = lost
        return None

    def _find_burst(self) -> str | None:
        """The problem of the latest samples, of all workers together or of one."""
        samples = sum(sum(t.samples_of) for t in self._window)
        lost = sum(t.skipped for t in self._window)
        if self._is_burst(lost, samples):
            return f"{lost:.0f} of the latest {samples:.0f} samples are lost"
        for worker in range(len(self._window[-1].samples_of)):
            samples = sum(t.samples_of[worker] for t in self._window)
            lost = sum(t.skipped_of[worker] for t in self._window)
            if self._is_burst(lost, samples):
                return f"worker {worker} lost {lost:.0f} of its latest {samples:.0f} samples"
        return None

    def _is_burst(self, lost: float, samples: float) -> bool:
        return lost > self._burst * max(samples, _SMALLEST_WINDOW)
