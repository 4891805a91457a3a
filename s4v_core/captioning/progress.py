"""The one progress bar of a job: done, rate, time to go, and what bounds it."""

import sys
from collections import Counter
from typing import Any, Self

from tqdm import tqdm

LOG_EVERY_S = 15.0
"""Where the output is a log and not a terminal, one line per this many seconds is enough."""


class ProgressBar:
    """Counts images on stderr."""

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        on_terminal = sys.stderr.isatty()
        self._notes: Counter[str] = Counter()
        self._bar: tqdm[Any] = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit="img",
            mininterval=0.2 if on_terminal else LOG_EVERY_S,
            dynamic_ncols=on_terminal,
            ncols=None if on_terminal else 100,
            smoothing=0.05,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, images: int, bound_by: str | None = None, **counts: int) -> None:
        """`counts` are added up and shown behind the rate, those that are not zero."""
        self._notes.update(counts)
        shown = [f"{name} {count}" for name, count in self._notes.items() if count]
        if bound_by:
            shown.append(f"bound by {bound_by}")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(images)

    def say(self, line: str) -> None:
        """A line of text that does not tear the bar."""
        tqdm.write(line, file=sys.stderr)
