"""The progress bar of a run: steps, rate, remaining time, loss, and what limits the speed."""

from typing import Self

from s4v_core.progress import open_bar
from s4v_core.training.worker.step_metrics import StepMetrics


class StepBar:
    """A progress bar on stderr.

    Args:
        total: Number of units at the end; None if it is not known.
        done: Number of units that are done already.
    """

    def __init__(self, label: str, total: int | None, done: int = 0, unit: str = "step") -> None:
        self._bar = open_bar(label, total, done, unit, width=110)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        self._bar.update(count)

    def show_step(self, metrics: StepMetrics) -> None:
        """Show a finished step. Steps that are done again after a restart do not count twice."""
        shown = f"loss {metrics.loss:.4f}, {metrics.images_per_s:.1f} img/s"
        if metrics.mfu is not None:
            shown += f", MFU {metrics.mfu:.0%}"
        self._bar.set_postfix_str(f"{shown}, bound by {metrics.bound_by}", refresh=False)
        self._bar.update(metrics.step - self._bar.n)
