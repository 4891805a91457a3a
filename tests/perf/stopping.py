"""A process that starts once and is stopped during the turns of others."""

import contextlib
import signal
import subprocess
from typing import Any

import psutil


class Family:
    """A process and all its descendants, which use no core while they are stopped (SIGSTOP).

    They notice it only by the clock, so their time limits for answers must be long.
    """

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._process = process
        self._stopped: list[psutil.Process] = []

    def stop(self) -> None:
        first = psutil.Process(self._process.pid)
        self._stopped = [first, *first.children(recursive=True)]
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """Kill all current processes of the family at once."""
        self.stop()
        self._send(signal.SIGKILL)
        self._process.wait()

    def _send(self, what: signal.Signals) -> None:
        for process in self._stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(what)
