"""Signals: the first Ctrl-C lets work in flight finish, a second one stops at once, and SIGTERM
ends the process within two seconds, or after a block that still has to save something."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

TERMINATED = 143
"""Exit status after SIGTERM."""

_WATCHER = "sigterm"
"""Name of the thread that waits for SIGTERM."""

_RESUME = "run the same command again to resume"


@dataclass(frozen=True, slots=True)
class _Saver:
    """The call that SIGTERM makes instead of ending the process at once."""

    save: Callable[[], object]
    doing: str
    grace_s: float
    is_called: threading.Event = field(default_factory=threading.Event)


_savers: list[_Saver] = []
"""The innermost one is the last."""


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


@contextmanager
def save_at_sigterm(save: Callable[[], object], doing: str, grace_s: float) -> Iterator[None]:
    """Call `save` at SIGTERM, in another thread; the process ends with the block, or earlier if the
    block takes too long. Needs `end_at_sigterm`.

    Args:
        doing: What is saved, for the line that is printed at SIGTERM.
        grace_s: Seconds after SIGTERM at which the process ends in any case.

    Raises:
        SystemExit: At the end of the block, with TERMINATED, if SIGTERM came.
    """
    saver = _Saver(save, doing, grace_s)
    # Ray's own handler, which it sets when a driver connects, would end this process at once.
    if threading.current_thread() is threading.main_thread() and _is_watching():
        signal.signal(signal.SIGTERM, _ignore)
    _savers.append(saver)
    try:
        yield
    finally:
        _savers.remove(saver)
    if saver.is_called.is_set():
        _print_line(f"terminated; {_RESUME}")
        raise SystemExit(TERMINATED)


def end_at_sigterm() -> None:
    """From now on SIGTERM prints one line and ends the process, whatever it is doing, except for
    blocks of `save_at_sigterm`.

    A thread of its own receives the signal, through a pipe. A signal handler would not do: Ray
    replaces any handler by its own, and a handler has to wait until a running call into C returns.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A forked child must not write into this process's pipe.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    # Python writes to the pipe only for signals that have a Python handler.
    signal.signal(signal.SIGTERM, _ignore)
    threading.Thread(target=_wait_for_sigterm, args=(reader,), name=_WATCHER, daemon=True).start()


def _ignore(number: int, frame: FrameType | None) -> None:
    """The thread that reads the pipe does everything."""


def _is_watching() -> bool:
    return any(thread.name == _WATCHER for thread in threading.enumerate())


def _wait_for_sigterm(reader: int) -> None:
    while True:
        if signal.SIGTERM not in os.read(reader, 64):
            continue
        if not _savers:
            # Ray's job stop kills 3 s later, so nothing here may take long. Nothing is lost either.
            _end()
        saver = _savers[-1]
        if not saver.is_called.is_set():  # some supervisors send more than one
            saver.is_called.set()
            _print_line(f"terminated; {saver.doing}, for {saver.grace_s:g} s at most")
            timer = threading.Timer(saver.grace_s, _end)
            timer.daemon = True
            timer.start()
            saver.save()


def _end() -> None:
    _print_line(f"terminated; {_RESUME}")
    os._exit(TERMINATED)


def _print_line(line: str) -> None:
    sys.stderr.write(f"\n{line}\n")
    sys.stderr.flush()
