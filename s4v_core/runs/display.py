"""The one progress bar of a pass: done, rate, time to go, what fails, and what bounds it."""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Self

from s4v_core.flow.spec import UnitDone
from s4v_core.progress import open_bar

WINDOW_S = 60.0
LEAST_SPAN_S = 5.0
"""Units that end together, as two engines' do, tell no rate."""

SHOWN_REASONS = 3


class ImageBar:
    """Counts images on stderr."""

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self._bar = open_bar(label, total, done, "img", width=150)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, images: int) -> None:
        self._bar.update(images)

    def note(self, text: str) -> None:
        """What stands behind rate and time to go from the next update on."""
        self._bar.set_postfix_str(text, refresh=False)


class PassNotes:
    """What is worth knowing of a pass while it goes on, in half a line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._images = self._good = self._restarts = 0
        self._reasons: Counter[str] = Counter()

    def add(self, done: UnitDone) -> None:
        now = self._clock()
        self._began = now if self._began is None else self._began
        self._recent.append((now, done.generated))
        while self._recent[0][0] <= now - WINDOW_S:
            self._recent.popleft()
        self._images += done.generated
        self._good += done.generated_ok
        self._restarts += done.engine_starts
        self._reasons.update(dict(done.reasons))

    def text(self, bound_by: str) -> str:
        """Rate of the last minute, share of good captions, commonest reasons, what bounds it."""
        rate = self.recent_rate()
        notes = [f"{rate:.1f} img/s last minute"] if rate else []
        notes.append(f"{self._good / max(self._images, 1):.1%} ok")
        notes += [f"{name} {count}" for name, count in self._reasons.most_common(SHOWN_REASONS)]
        if self._restarts:
            notes.append(f"{self._restarts} engine restarts")
        return ", ".join([*notes, f"bound by {bound_by}"])

    def recent_rate(self) -> float:
        """Images per second of the last minute, or since the first unit came; 0 before it can be
        told."""
        if self._began is None or not self._recent:
            return 0.0
        now = self._clock()
        span = min(WINDOW_S, now - self._began)
        # The first unit's images were made before the clock began.
        counted = sum(images for at, images in self._recent if at > self._began)
        return counted / span if span >= LEAST_SPAN_S else 0.0
