"""The one progress bar of a job: done, rate, time to go, and what bounds it."""

import sys
from collections import Counter
from typing import Self

from tqdm import tqdm

from s4v_core.progress import open_bar


class ProgressBar:
    """Counts images on stderr."""

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self._notes: Counter[str] = Counter()
        self._bar = open_bar(label, total, done, "img")

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
