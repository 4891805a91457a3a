"""Ctrl-C drains, a second one stops at once, SIGTERM is gone within two seconds."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

RESUME = "run the same command again to resume"
TERMINATED = 143


@contextmanager
def draining(
    drain: Callable[[], object],
    doing: str = "finishing the units in flight",
    limit_s: float | None = None,
) -> Iterator[list[bool]]:
    """Call `drain` at the first Ctrl-C; the list that is given out then holds True.

    Args:
        limit_s: So long after the first Ctrl-C, a second one comes by itself.
    """
    drained: list[bool] = []
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if drained:
            raise KeyboardInterrupt
        drained.append(True)
        _say(f"{doing}; Ctrl-C again stops at once")
        if limit_s is not None:
            timers.append(threading.Timer(limit_s, os.kill, (os.getpid(), signal.SIGINT)))
            timers[-1].daemon = True
            timers[-1].start()
        drain()

    def terminate(number: int, frame: FrameType | None) -> None:
        # Ray's job stop kills 3 s later: nothing here may take long, and nothing is lost.
        _say(f"terminated; {RESUME}")
        os._exit(TERMINATED)

    old = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGTERM, terminate)
    try:
        yield drained
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGINT, old[0])
        signal.signal(signal.SIGTERM, old[1])


def _say(line: str) -> None:
    sys.stderr.write(f"\n{line}\n")
    sys.stderr.flush()
