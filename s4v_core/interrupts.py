"""Signals: the first Ctrl-C lets work in flight finish, a second one stops at once, and SIGTERM
ends the process within two seconds."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
"""Exit status after SIGTERM."""

_RESUME = "run the same command again to resume"


@contextmanager
def drain_on_interrupt(
    drain: Callable[[], object],
    doing: str = "finishing the units in flight",
    limit_s: float | None = None,
) -> Iterator[list[bool]]:
    """Call `drain` at the first Ctrl-C; from then on the yielded list holds True.

    Args:
        doing: What draining does, for the line that is printed at the first Ctrl-C.
        limit_s: Seconds after the first Ctrl-C at which a second one is sent automatically.
    """
    drained: list[bool] = []
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if drained:
            raise KeyboardInterrupt
        drained.append(True)
        _print_line(f"{doing}; Ctrl-C again stops at once")
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
    """From now on SIGTERM prints one line and ends the process, whatever it is doing.

    A thread of its own receives the signal, through a pipe. A signal handler would not do: Ray
    replaces any handler by its own, and a handler has to wait until a running call into C returns.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A forked child must not write into this process's pipe.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    # Python writes to the pipe only for signals that have a Python handler.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_wait_for_sigterm, args=(reader,), daemon=True).start()


def _wait_for_sigterm(reader: int) -> None:
    while signal.SIGTERM not in os.read(reader, 64):
        pass
    # Ray's job stop kills 3 s later, so nothing here may take long. Nothing is lost either.
    _print_line(f"terminated; {_RESUME}")
    os._exit(TERMINATED)


def _print_line(line: str) -> None:
    sys.stderr.write(f"\n{line}\n")
    sys.stderr.flush()
