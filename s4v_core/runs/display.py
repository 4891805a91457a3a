"""The one progress bar of a run: done, rate, time to go, what fails, and what bounds it."""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Self

from s4v_core.flow.spec import UnitDone
from s4v_core.progress import open_bar

_WINDOW_S = 60.0
_LEAST_SPAN_S = 5.0
"""Units that end together, as two engines' do, tell no rate."""

_SHOWN_REASONS = 3


class RowBar:
    """Counts rows on stderr.

    Args:
        unit: What one row is, in a few letters: img.
    """

    def __init__(self, label: str, total: int | None, done: int = 0, unit: str = "img") -> None:
        self._bar = open_bar(label, total, done, unit, width=150)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, rows: int) -> None:
        self._bar.update(rows)

    def show_notes(self, text: str) -> None:
        """Set the text behind rate and time to go, from the next update on."""
        self._bar.set_postfix_str(text, refresh=False)


class LiveNotes:
    """Half a line about a run in progress: rate, share of good rows, failures, bottleneck."""

    def __init__(self, unit: str = "img", clock: Callable[[], float] = time.monotonic) -> None:
        self._unit, self._clock = unit, clock
        self._began: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._rows = self._good = self._restarts = 0
        self._reasons: Counter[str] = Counter()

    def add(self, done: UnitDone) -> None:
        now = self._clock()
        self._began = now if self._began is None else self._began
        self._recent.append((now, done.generated))
        while self._recent[0][0] <= now - _WINDOW_S:
            self._recent.popleft()
        self._rows += done.generated
        self._good += done.generated_ok
        self._restarts += done.engine_starts
        self._reasons.update(dict(done.reasons))

    def as_text(self, bound_by: str) -> str:
        """Rate of the last minute, share of good rows, most frequent reasons, and the
        bottleneck."""
        rate = self.recent_rate()
        notes = [f"{rate:.1f} {self._unit}/s last minute"] if rate else []
        notes.append(f"{self._good / max(self._rows, 1):.1%} ok")
        notes += [f"{name} {count}" for name, count in self._reasons.most_common(_SHOWN_REASONS)]
        if self._restarts:
            notes.append(f"{self._restarts} engine restarts")
        return ", ".join([*notes, f"bound by {bound_by}"])

    def recent_rate(self) -> float:
        """Rows per second of the last minute, or since the first unit came; 0 while unknown."""
        if self._began is None or not self._recent:
            return 0.0
        now = self._clock()
        span = min(_WINDOW_S, now - self._began)
        # The first unit's rows were made before the clock began.
        counted = sum(rows for at, rows in self._recent if at > self._began)
        return counted / span if span >= _LEAST_SPAN_S else 0.0
