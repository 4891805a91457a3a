"""Runs scripts as processes that end with this one."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SCRIPTS = Path(__file__).resolve().parents[2] / "ray_jobs"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_LAST_LINES = 6


@dataclass(frozen=True, slots=True)
class Running:
    """A process and the file that it prints to."""

    process: "subprocess.Popen[bytes]"
    log: IO[bytes]
    began: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def read_log(self) -> bytes:
        """All that it printed so far. Reading does not move the place where it goes on writing."""
        number = self.log.fileno()
        return os.pread(number, os.fstat(number).st_size, 0)

    def read_last_lines(self) -> str:
        """The end of what it printed, in one line."""
        lines = self.read_log().decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-_LAST_LINES:])


def start_script(script: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Running:
    """Start a script of ray_jobs. If this process is killed, it is killed, too: two processes of a
    study must not write the same output."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)

    process = subprocess.Popen(
        [sys.executable, str(_SCRIPTS / script), *arguments],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | dict(environment),
        preexec_fn=die_with_parent,
    )
    return Running(process, log, time.monotonic())
