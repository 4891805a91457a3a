"""The one progress bar of a run: steps, rate, time to go, loss, and what bounds it."""

import sys
from typing import Any, Self

from tqdm import tqdm

from s4v_core.training.metrics import StepMetrics

LOG_EVERY_S = 15.0
"""Where the output is a log and not a terminal, one line per this many seconds is enough."""


class StepBar:
    """Counts on stderr."""

    def __init__(self, label: str, total: int | None, done: int = 0, unit: str = "step") -> None:
        on_terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit=unit,
            mininterval=0.2 if on_terminal else LOG_EVERY_S,
            dynamic_ncols=on_terminal,
            ncols=None if on_terminal else 110,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        self._bar.update(count)

    def step_done(self, metrics: StepMetrics) -> None:
        """After a restart, steps that are done again do not count twice."""
        shown = f"loss {metrics.loss:.4f}, {metrics.images_per_s:.1f} img/s"
        if metrics.mfu is not None:
            shown += f", MFU {metrics.mfu:.0%}"
        self._bar.set_postfix_str(f"{shown}, bound by {metrics.bound_by}", refresh=False)
        self._bar.update(metrics.step - self._bar.n)
