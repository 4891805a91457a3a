"""An engine that outlives its own death: replaced when it breaks, its killer found and set aside.

When an engine dies, everything it was working on is suspect. The suspects are tried apart, by
halves, until whoever kills an engine alone is known; all others get their captions.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from s4v_core.engines.requests import (
    Engine,
    EngineDiedError,
    Generation,
    Request,
    SamplingConfig,
    Tell,
)
from s4v_core.errors import EngineError

DIED, HANG = "engine_died", "hang"
"""Reasons of an image that an engine did not survive, and of one that it never came back from."""

LAST_WORD_S = 20.0
"""For requests to hear that their engine was killed, before they are given up."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request and who waits for it."""

    request: Request
    sampling: SamplingConfig
    answer: "asyncio.Future[Generation]"
    tell: Tell | None = None
    task: "asyncio.Task[None] | None" = None


class SupervisedEngine:
    """Used like an engine, from one event loop.

    Attributes:
        starts: How often an engine was started, the first time included.
        failure: Why no engine runs any more, for good.
    """

    def __init__(
        self, build: Callable[[], Engine], silence_limit_s: float, max_starts: int
    ) -> None:
        """Args:
            build: Starts an engine; may take minutes.
            silence_limit_s: Seconds without any sign of an engine that has work.

        Raises:
            EngineError: The first one does not start.
        """
        self._build, self._silence_limit_s, self._max_starts = build, silence_limit_s, max_starts
        self._engine = build()
        self.starts = 1
        self.version = self._engine.version
        self._slots = asyncio.Semaphore(self._engine.slots)
        self._working: set[_Waiting] = set()
        self._waits_since = time.monotonic()
        self._hung = False
        self._recovery: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    async def generate(
        self, request: Request, sampling: SamplingConfig, tell: Tell | None = None
    ) -> Generation:
        """One image's caption, or the reason why no engine survives it.

        Args:
            tell: As of an engine. Where one died, the pieces end, and only the answer is whole.

        Raises:
            EngineError: Engines do not start any more, or too many died.
        """
        async with self._slots:
            while self._recovery:
                await asyncio.shield(self._recovery)
            if self.failure:
                raise self.failure
            self._loop = asyncio.get_running_loop()
            waiting = _Waiting(request, sampling, self._loop.create_future(), tell)
            self._begin(waiting)
            try:
                return await waiting.answer
            except asyncio.CancelledError:
                if waiting.task:
                    waiting.task.cancel()
                raise

    def close(self) -> None:
        self._closed.set()
        self._engine.close()

    def _begin(self, waiting: _Waiting) -> None:
        if not self._working:
            self._waits_since = time.monotonic()
        self._working.add(waiting)
        waiting.task = asyncio.create_task(self._work(waiting))

    async def _work(self, waiting: _Waiting) -> None:
        try:
            tell, waiting.tell = waiting.tell, None  # a second try would tell the beginning twice
            answer = await self._engine.generate(waiting.request, waiting.sampling, tell)
        except (EngineDiedError, asyncio.CancelledError) as error:  # the latter: _give_up_later
            if isinstance(error, asyncio.CancelledError) and waiting.answer.cancelled():
                self._working.discard(waiting)  # nobody waits any more
                return
            if not self._recovery:
                self._recovery = asyncio.create_task(self._recover())
            return  # still in `_working`: a suspect
        # Whatever it is, who waits must hear of it.
        except BaseException as error:  # noqa: BLE001
            self._working.discard(waiting)
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
            return
        self._working.discard(waiting)
        if not waiting.answer.done():
            waiting.answer.set_result(answer)

    async def _recover(self) -> None:
        """Try the suspects apart; nobody else is let in meanwhile."""
        suspects = await self._buried()
        try:
            await self._restart()
            await self._isolate(suspects, guilty=True)
        # Whatever keeps engines from starting, everybody who waits must hear of it.
        except Exception as error:  # noqa: BLE001
            self.failure = error
            for waiting in suspects:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        finally:
            self._recovery = None

    async def _isolate(self, suspects: list[_Waiting], guilty: bool) -> None:
        """Args:
        guilty: Whether one of several suspects is known to kill: together they need no trial.
        """
        if not suspects:
            return
        if len(suspects) == 1 or not guilty:
            suspects, hung = await self._tried(suspects)
            if not suspects:
                return
            if len(suspects) == 1:
                reason = HANG if hung else DIED
                suspects[0].answer.set_result(Generation(None, None, None, None, reason))
                return
        half = len(suspects) // 2
        starts = self.starts
        await self._isolate(suspects[:half], guilty=False)
        # Where the first half is innocent, it was one of the second.
        await self._isolate(suspects[half:], guilty=self.starts == starts)

    async def _tried(self, suspects: list[_Waiting]) -> tuple[list[_Waiting], bool]:
        """Those that an engine of their own left without an answer, and whether it hung."""
        self._hung = False
        for waiting in suspects:
            self._begin(waiting)
        await self._all_tasks_done()
        left = [waiting for waiting in suspects if not waiting.answer.done()]
        if not left:
            return [], False
        hung = self._hung
        self._working.clear()
        await self._restart()
        return left, hung

    async def _buried(self) -> list[_Waiting]:
        """Wait until nobody works with the dead engine, and return whom it left waiting."""
        self._give_up_later()
        await self._all_tasks_done()
        left = [waiting for waiting in self._working if not waiting.answer.done()]
        self._working.clear()
        return left

    async def _all_tasks_done(self) -> None:
        tasks = [waiting.task for waiting in self._working if waiting.task]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _give_up_later(self) -> None:
        """An engine that is gone may leave a request without an answer, and without an error."""
        assert self._loop, "somebody waits"
        tasks = [waiting.task for waiting in self._working if waiting.task]
        for task in tasks:
            self._loop.call_later(LAST_WORD_S, task.cancel)

    async def _restart(self) -> None:
        """Raises EngineError: It does not start, or started too often."""
        if self.starts >= self._max_starts:
            raise EngineError("supervised", f"{self.starts} engines died; gave up")
        old = self._engine
        await asyncio.to_thread(_closed, old)
        self._engine = await asyncio.to_thread(self._build)
        self.starts += 1

    def _watch(self) -> None:
        """In a thread of its own: an engine may hold the event loop, too."""
        while not self._closed.wait(min(self._silence_limit_s / 10, 5.0)):
            if not self._working:
                continue
            quiet_s = time.monotonic() - max(self._engine.last_sign, self._waits_since)
            if quiet_s > self._silence_limit_s:
                self._hung = True
                self._engine.kill()
                assert self._loop, "somebody waits"
                self._loop.call_soon_threadsafe(self._give_up_later)
                self._waits_since = time.monotonic()  # its death takes a moment to be noticed


def _closed(engine: Engine) -> None:
    try:
        engine.close()
    # Border to foreign code: what is dead already may complain of anything.
    except Exception:  # noqa: BLE001
        engine.kill()
