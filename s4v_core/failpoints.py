"""Places in the code where a test may kill the process, to prove that nothing hangs on surviving
them. Without the environment variable they do nothing."""

import os
import signal
from pathlib import Path

VARIABLE = "S4V_FAILPOINT"
"""`NAME:NTH:FOLDER`: kill the process that reaches NAME as the NTH one of all that share FOLDER."""


def reach(name: str) -> None:
    """Die here if a test says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    chosen, nth, folder = wanted.split(":", 2)
    if chosen == name and _place(Path(folder)) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)


def _place(folder: Path) -> int:
    """Which one this is to come here, over all processes."""
    number = 1
    while True:
        try:
            (folder / f"{number}").touch(exist_ok=False)
            return number
        except FileExistsError:
            number += 1
