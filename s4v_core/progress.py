"""The look of every progress bar of this project: on stderr, with few lines when it is a log."""

import sys
from typing import Any

from tqdm import tqdm

_LOG_EVERY_S = 15.0
"""Seconds between two lines of the bar when stderr is a log and not a terminal."""


_WITHOUT_ESTIMATE = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def open_bar(
    label: str,
    total: int | None,
    done: int,
    unit: str,
    width: int = 100,
    estimates: bool = True,
) -> "tqdm[Any]":
    """Open a progress bar.

    Args:
        total: Number of units; None if it is not known.
        done: Units that were finished before.
        width: Characters of a line when stderr is not a terminal.
        estimates: Whether the bar says how fast it is and how long it will take. Where units are of
            very different sizes, that would mislead.
    """
    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        mininterval=0.2 if on_terminal else _LOG_EVERY_S,
        dynamic_ncols=on_terminal,
        ncols=None if on_terminal else width,
        smoothing=0.05,
        miniters=0,  # the notes change while the count does not
        bar_format=None if estimates else _WITHOUT_ESTIMATE,
    )
