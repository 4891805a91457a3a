"""An engine that survives its own death: replaced when it breaks, and the request that killed it
isolated.

When an engine dies, every request it was working on is a suspect. The suspects are tried again in
halves until the request that kills an engine alone is known; all others get their answers.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from s4v_core.engines.engine_load import EngineLoad, add_loads, take_load
from s4v_core.engines.requests import Engine, EngineDiedError, Generation, fail
from s4v_core.errors import EngineError

DIED, HANG = "engine_died", "hang"
"""Reasons of a request that no engine survived, and of one that no engine ever answered."""

_DRAIN_S = 20.0
"""Seconds that requests get to notice that their engine was killed, before they are cancelled."""

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class SupervisableEngine(Protocol[A_co]):
    """The part of an engine that supervision needs, whether it answers with texts or pictures."""

    version: str
    last_sign: float
    slots: int

    async def generate(
        self, request: Any, sampling: Any, on_piece: Callable[[str], None] | None = None
    ) -> A_co: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


@dataclass(eq=False, slots=True)
class _Waiting(Generic[A]):
    """A request, and the future that its caller waits for."""

    request: Any
    sampling: Any
    answer: "asyncio.Future[A]"
    on_piece: Callable[[str], None] | None = None
    task: "asyncio.Task[None] | None" = None


class SupervisedEngine(Generic[A]):
    """Used like an engine, from one event loop.

    Attributes:
        starts: How often an engine was started, the first time included.
        failure: Why no engine runs any more, for good.
    """

    def __init__(
        self,
        build: Callable[[], SupervisableEngine[A]],
        silence_limit_s: float,
        max_starts: int,
        fail: Callable[[str], A],
        died: type[EngineError],
    ) -> None:
        """Args:
            build: Starts an engine; may take minutes.
            silence_limit_s: An engine that has work and shows no progress for so many seconds
                hangs.
            fail: Makes the answer of a request that no engine survives, from the reason.
            died: Error by which an engine says that it is gone.

        Raises:
            EngineError: The first engine does not start.
        """
        self._build, self._silence_limit_s, self._max_starts = build, silence_limit_s, max_starts
        self._fail, self._died = fail, died
        self._engine = build()
        self.starts = 1
        self._load_of_dead: EngineLoad | None = None
        self.version = self._engine.version
        self._slots = asyncio.Semaphore(self._engine.slots)
        self._working: set[_Waiting[A]] = set()
        self._waits_since = time.monotonic()
        self._hung = False
        self._recovery: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    async def generate(
        self, request: Any, sampling: Any, on_piece: Callable[[str], None] | None = None
    ) -> A:
        """The answer to one request, or the reason why no engine survives it.

        Args:
            on_piece: Called with each piece of the text. If an engine dies, the pieces end, and
                only the answer is complete.

        Raises:
            EngineError: Engines do not start any more, or too many died.
        """
        async with self._slots:
            while self._recovery:
                await asyncio.shield(self._recovery)
            if self.failure:
                raise self.failure
            self._loop = asyncio.get_running_loop()
            waiting = _Waiting[A](request, sampling, self._loop.create_future(), on_piece)
            self._begin(waiting)
            try:
                return await waiting.answer
            except asyncio.CancelledError:
                if waiting.task:
                    waiting.task.cancel()
                raise

    @property
    def current(self) -> SupervisableEngine[A]:
        """The engine that runs now."""
        return self._engine

    def take_load(self) -> EngineLoad | None:
        """The load since the last call, dead engines included; None if the kind does not tell."""
        dead, self._load_of_dead = self._load_of_dead, None
        return add_loads(dead, take_load(self._engine))

    def close(self) -> None:
        self._closed.set()
        self._engine.close()

    def _begin(self, waiting: _Waiting[A]) -> None:
        if not self._working:
            self._waits_since = time.monotonic()
        self._working.add(waiting)
        waiting.task = asyncio.create_task(self._work(waiting))

    async def _work(self, waiting: _Waiting[A]) -> None:
        try:
            # A second try would stream the beginning twice.
            on_piece, waiting.on_piece = waiting.on_piece, None
            answer = await self._engine.generate(waiting.request, waiting.sampling, on_piece)
        except (self._died, asyncio.CancelledError) as error:  # the latter: _cancel_later
            if isinstance(error, asyncio.CancelledError) and waiting.answer.cancelled():
                self._working.discard(waiting)  # the caller has left
                return
            if not self._recovery:
                self._recovery = asyncio.create_task(self._recover())
            return  # still in `_working`: a suspect
        # Whatever it is, the caller must hear of it.
        except BaseException as error:  # noqa: BLE001
            self._working.discard(waiting)
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
            return
        self._working.discard(waiting)
        if not waiting.answer.done():
            waiting.answer.set_result(answer)

    async def _recover(self) -> None:
        """Start another engine and isolate the request that killed the last one. New requests wait
        meanwhile."""
        suspects = await self._collect_suspects()
        try:
            await self._restart()
            await self._isolate(suspects, is_guilty=True)
        # Whatever keeps engines from starting, every caller must hear of it.
        except Exception as error:  # noqa: BLE001
            self.failure = error
            for waiting in suspects:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        finally:
            self._recovery = None

    async def _isolate(self, suspects: list[_Waiting[A]], is_guilty: bool) -> None:
        """Find the request that kills engines, by halves; answer all others.

        Args:
            is_guilty: The group is already known to contain a killer, so it is split without being
                tried whole.
        """
        if not suspects:
            return
        if len(suspects) == 1 or not is_guilty:
            suspects, has_hung = await self._retry_alone(suspects)
            if not suspects:
                return
            if len(suspects) == 1:
                suspects[0].answer.set_result(self._fail(HANG if has_hung else DIED))
                return
        half = len(suspects) // 2
        starts = self.starts
        await self._isolate(suspects[:half], is_guilty=False)
        # No restart during the first half: the killer is in the second.
        await self._isolate(suspects[half:], is_guilty=self.starts == starts)

    async def _retry_alone(self, suspects: list[_Waiting[A]]) -> tuple[list[_Waiting[A]], bool]:
        """Give the suspects an engine of their own.

        Returns:
            The suspects that it left without an answer, and whether it hung.
        """
        self._hung = False
        for waiting in suspects:
            self._begin(waiting)
        await self._wait_for_tasks()
        left = [waiting for waiting in suspects if not waiting.answer.done()]
        if not left:
            return [], False
        has_hung = self._hung
        self._working.clear()
        await self._restart()
        return left, has_hung

    async def _collect_suspects(self) -> list[_Waiting[A]]:
        """Wait until no request is with the dead engine; return those that it left unanswered."""
        self._cancel_later()
        await self._wait_for_tasks()
        left = [waiting for waiting in self._working if not waiting.answer.done()]
        self._working.clear()
        return left

    async def _wait_for_tasks(self) -> None:
        tasks = [waiting.task for waiting in self._working if waiting.task]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel_later(self) -> None:
        """An engine that is gone may leave a request without an answer and without an error."""
        assert self._loop, "a request is waiting"
        tasks = [waiting.task for waiting in self._working if waiting.task]
        for task in tasks:
            self._loop.call_later(_DRAIN_S, task.cancel)

    async def _restart(self) -> None:
        """Raises EngineError: The engine does not start, or it started too often."""
        if self.starts >= self._max_starts:
            raise EngineError("supervised", f"{self.starts} engines died; gave up")
        old = self._engine
        self._load_of_dead = add_loads(self._load_of_dead, take_load(old))
        await asyncio.to_thread(_close_or_kill, old)
        self._engine = await asyncio.to_thread(self._build)
        self.starts += 1

    def _watch(self) -> None:
        """The watchdog, in a thread: an engine that hangs may hold the event loop, too."""
        while not self._closed.wait(min(self._silence_limit_s / 10, 5.0)):
            if not self._working:
                continue
            quiet_s = time.monotonic() - max(self._engine.last_sign, self._waits_since)
            if quiet_s > self._silence_limit_s:
                self._hung = True
                self._engine.kill()
                assert self._loop, "a request is waiting"
                self._loop.call_soon_threadsafe(self._cancel_later)
                self._waits_since = time.monotonic()  # its death takes a moment to be noticed


def supervise(
    build: Callable[[], Engine], silence_limit_s: float, max_starts: int
) -> SupervisedEngine[Generation]:
    """A supervised engine whose answers are texts."""
    return SupervisedEngine[Generation](build, silence_limit_s, max_starts, fail, EngineDiedError)


def _close_or_kill(engine: SupervisableEngine[Any]) -> None:
    try:
        engine.close()
    # Border to foreign code: closing what is dead already may raise anything.
    except Exception:  # noqa: BLE001
        engine.kill()
