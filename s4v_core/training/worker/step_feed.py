"""Hands the loop its steps, and never lets it wait without an end: a stop request ends the wait.

A step that cannot be read is an error as a value, so that all workers can save a checkpoint
together before the run ends.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

from s4v_core.errors import S4VError, TrainingError
from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.data.loader import ReadStep, StepReader, read_steps

_POLL_S = 0.5
"""Seconds between two looks for a stop request while a step is late."""
_CLOSE_LIMIT_S = 10.0
"""Seconds that the reading thread may take to end. A read from a store may take longer."""


@dataclass(frozen=True, slots=True)
class FedStep:
    """A step as the loop receives it.

    Attributes:
        step: Number of the step, from 0.
        waited_s: Seconds that the loop waited for it.
        batches: The micro-batches; None if they cannot be read or the wait was given up.
        error: Why they cannot be read; None if the wait was given up for a stop request.
    """

    step: int
    waited_s: float
    batches: list[MicroBatch] | None
    error: S4VError | None = None


class StepFeed:
    """Reads steps in a thread of its own, with the loader's processes behind it.

    Args:
        processes: Number of processes that read ahead; 0 reads in the thread itself.
        is_stop_requested: Asked while a step is late.
    """

    def __init__(
        self,
        reader: StepReader,
        steps: range,
        processes: int,
        is_stop_requested: Callable[[], bool],
    ) -> None:
        self._steps, self._is_stop_requested = steps, is_stop_requested
        self._read: queue.Queue[ReadStep | BaseException] = queue.Queue(maxsize=1)
        self._closing = multiprocessing.get_context("spawn").Event()
        self._others = set(multiprocessing.active_children())
        # A daemon, because a read from a store may take longer than the process shall live.
        self._thread = threading.Thread(target=self._fill, args=(reader, processes), daemon=True)

    def __iter__(self) -> Iterator[FedStep]:
        self._thread.start()
        for step in self._steps:
            yield self._wait_for(step)

    def close(self) -> None:
        """End the reading, at once where a process reads."""
        self._closing.set()
        for child in set(multiprocessing.active_children()) - self._others:
            child.terminate()
        with suppress(queue.Empty):
            self._read.get_nowait()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_LIMIT_S)

    def _wait_for(self, step: int) -> FedStep:
        started = time.monotonic()
        while True:
            try:
                found = self._read.get(timeout=_POLL_S)
            except queue.Empty:
                if self._is_stop_requested():
                    return FedStep(step, time.monotonic() - started, None)
                continue
            waited_s = time.monotonic() - started
            if isinstance(found, list):
                return FedStep(step, waited_s, found)
            if isinstance(found, S4VError):
                return FedStep(step, waited_s, None, found)
            return FedStep(step, waited_s, None, _describe_dead_loader(step, found))

    def _fill(self, reader: StepReader, processes: int) -> None:
        prepare = partial(_outlive_sigterm, self._closing)
        steps = read_steps(reader, self._steps, processes, prepare)
        try:
            for found in steps:
                if not self._put(found):
                    return
        # Border to foreign code: the loop raises it, and saves before.
        except Exception as error:  # noqa: BLE001
            self._put(error)
        finally:
            steps.close()

    def _put(self, found: ReadStep | BaseException) -> bool:
        """Hand over a step; returns whether more are wanted."""
        while not self._closing.is_set():
            with suppress(queue.Full):
                self._read.put(found, timeout=_POLL_S)
                return True
        return False


def _outlive_sigterm(closing: Any, number: int) -> None:
    """Let a loader process survive a SIGTERM that is sent to the whole job: its parent still needs
    it until a checkpoint is saved."""

    def end_if_closing(number: int, frame: FrameType | None) -> None:
        if closing.is_set():
            os._exit(0)

    signal.signal(signal.SIGTERM, end_if_closing)


def _describe_dead_loader(step: int, error: BaseException) -> TrainingError:
    first = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return TrainingError(
        step + 1,
        f"its samples could not be read, because a loader process failed ({first[0]}); run the "
        "same command again to resume, with fewer --loader-workers if memory ran out",
    )
