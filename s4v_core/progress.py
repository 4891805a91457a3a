"""How every progress bar of this project looks: on stderr, quiet where the output is a log."""

import sys
from typing import Any

from tqdm import tqdm

LOG_EVERY_S = 15.0
"""Where the output is a log and not a terminal, one line per this many seconds is enough."""


def open_bar(label: str, total: int | None, done: int, unit: str, width: int = 100) -> "tqdm[Any]":
    """A bar of `total` units of which `done` were there before; None: the total is not known.

    Args:
        width: Characters of a line where there is no terminal.
    """
    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        mininterval=0.2 if on_terminal else LOG_EVERY_S,
        dynamic_ncols=on_terminal,
        ncols=None if on_terminal else width,
        smoothing=0.05,
    )
