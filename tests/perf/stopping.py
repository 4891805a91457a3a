"""A process that starts once and stands still while it is others' turn."""

import contextlib
import signal
import subprocess
from typing import Any

import psutil


class Family:
    """A process and all that it has started, which take no core while they are stopped (SIGSTOP).

    They take no notice of it but by the clock: whoever waits for an answer must be told to wait for
    long.
    """

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._process = process
        self._stopped: list[psutil.Process] = []

    def stop(self) -> None:
        first = psutil.Process(self._process.pid)
        self._stopped = [first, *first.children(recursive=True)]
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """All that there are now, at once."""
        self.stop()
        self._send(signal.SIGKILL)
        self._process.wait()

    def _send(self, what: signal.Signals) -> None:
        for process in self._stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(what)
