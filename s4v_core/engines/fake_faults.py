"""Pictures that break the fake engine: its process dies or falls silent as vLLM's would."""

import asyncio
import enum
import subprocess
import sys
from threading import Thread

import numpy as np
import numpy.typing as npt

from s4v_core.engines.requests import EngineDiedError


class Fault(enum.IntEnum):
    """Faults that a picture of one colour (255, 0, value) causes."""

    EXIT = 10
    """The engine's process leaves."""
    SEGV = 20
    """It is killed by a bad memory access."""
    ASSERT = 30
    """It raises, as after a device-side assert."""
    HOG = 40
    """It runs out of memory."""
    HANG = 50
    """It never answers again."""
    WORKER = 60
    """The process around the engine leaves."""
    GREED = 65
    """That process takes 3 GiB, and goes on if it gets them."""
    LOOP = 70
    """The caption loops unless it is drawn with a temperature."""
    REFUSAL = 80
    """The captioner refuses, whatever the sampling."""


def fault_of(pixels: npt.NDArray[np.uint8]) -> Fault | None:
    """The fault that a picture (uint8 RGB) stands for."""
    red, green, blue = (int(value) for value in pixels[0, 0])
    if (red, green) != (255, 0) or blue not in set(Fault):
        return None
    return Fault(blue)


class FaultyProcess:
    """A child process that all captions depend on, one after the other."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dead = False
        Thread(target=self._listen, daemon=True).start()

    async def work(self, fault: Fault | None) -> None:
        """One caption's worth of it.

        Raises:
            EngineDiedError: The child is gone.
        """
        self._loop = asyncio.get_running_loop()
        self._number += 1
        done = self._waiting[self._number] = self._loop.create_future()
        try:
            assert self._child.stdin, "the child has pipes"
            self._child.stdin.write(f"{self._number} {int(fault or 0)}\n")
        except (BrokenPipeError, ValueError):
            self._dead = True
        if self._dead:
            raise EngineDiedError("fake", "its process died")
        await done

    def kill(self) -> None:
        self._child.kill()

    def _listen(self) -> None:
        assert self._child.stdout, "the child has pipes"
        for line in self._child.stdout:
            self._tell(self._answer, int(line))
        self._dead = True
        self._tell(self._fail)
        self._child.wait()

    def _tell(self, what: object, *args: int) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *args)  # type: ignore[arg-type]

    def _answer(self, number: int) -> None:
        done = self._waiting.pop(number)
        if not done.done():
            done.set_result(None)

    def _fail(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            if not done.done():
                done.set_exception(EngineDiedError("fake", "its process died"))


_CHILD = f"""
import ctypes, os, resource, sys, time
for line in sys.stdin:
    number, fault = map(int, line.split())
    if fault == {Fault.EXIT:d}:
        os._exit(1)
    if fault == {Fault.SEGV:d}:
        ctypes.string_at(0)
    if fault == {Fault.ASSERT:d}:
        raise AssertionError("device-side assert triggered")
    if fault == {Fault.HOG:d}:
        resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
        hog = bytearray(1 << 30)
    if fault == {Fault.HANG:d}:
        time.sleep(1e6)
    print(number, flush=True)
"""
