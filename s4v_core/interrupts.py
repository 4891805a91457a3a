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

    old = signal.signal(signal.SIGINT, interrupt)
    try:
        yield drained
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGINT, old)


def end_at_sigterm() -> None:
    """From now on SIGTERM says one line and ends the process, whatever that is doing.

    A thread of its own hears of it. A handler would not do: Ray puts its own in the place of any
    other, and one has to wait for whatever call into C goes on.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # not their pipe
    signal.signal(signal.SIGTERM, lambda *_: None)  # or Python would not hear of it
    threading.Thread(target=_end_when_told, args=(reader,), daemon=True).start()


def _end_when_told(reader: int) -> None:
    while signal.SIGTERM not in os.read(reader, 64):
        pass
    # Ray's job stop kills 3 s later: nothing here may take long, and nothing is lost.
    _say(f"terminated; {RESUME}")
    os._exit(TERMINATED)


def _say(line: str) -> None:
    sys.stderr.write(f"\n{line}\n")
    sys.stderr.flush()
