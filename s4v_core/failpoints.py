"""Points in the code where a test can kill the process, to prove that a kill there loses nothing.

Without the environment variable they do nothing.
"""

import os
import signal
from pathlib import Path

VARIABLE = "S4V_FAILPOINT"
"""`NAME:NTH:FOLDER` kills the process that makes the NTH arrival at point NAME, counted over all
processes that share FOLDER."""


def reach(name: str) -> None:
    """Mark a point in the code; the process dies here if the variable says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    chosen, nth, folder = wanted.split(":", 2)
    if chosen == name and _count_arrival(Path(folder)) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)


def _count_arrival(folder: Path) -> int:
    """Number of this arrival, counted over all processes: each creates the next free file."""
    number = 1
    while True:
        try:
            (folder / f"{number}").touch(exist_ok=False)
            return number
        except FileExistsError:
            number += 1
