"""The first requests of a run, as a trial: if an engine refuses them all alike, the run ends.

A wrong setting makes an engine refuse every request with the same words. Without this the run would
write a failed row for each image. Once any engine of the run has answered, or refused two requests
for different reasons, the trial is over, and a refusal is its row's own.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from s4v_core.engines.choice import RunningEngine
from s4v_core.engines.requests import Generation, OnPiece, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import EngineError
from s4v_core.flow.brake import Brake

FIRST_REQUESTS = 32
"""Requests that are on trial, in the order of their start. Refusals come faster than answers, so
the first ones that end say nothing: with a setting that refuses two images in three, eight in a row
are common, and 32 in a row never happen."""

_LEAST_REFUSALS = 8
"""Refusals that end a run while its engine has nothing else to do; in a run of fewer rows, all of
them do."""

_FEWEST_ROWS = 3
"""A run of one or two rows always gets them: two images may both be at fault."""

_OWN_FAULT = re.compile(r"engine_refused:(content_filter|model_refusal)$")
"""Reasons that concern what one request shows; an engine that gives them works."""


class EngineTrial:
    """An engine as tasks use it, whose first requests are watched. Used from one event loop."""

    def __init__(self, engine: RunningEngine, name: str, rows: int, brake: Brake) -> None:
        """Args:
        name: The engine's name, for the sentence that ends the run.
        rows: Rows of the whole run; 0 if there is no trial.
        """
        self._engine, self._name, self._rows, self._brake = engine, name, rows, brake
        self._is_over = rows == 0
        self._failure: EngineError | None = None
        self._started = self._refused = self._rows_seen = 0
        self._alike: str | None = None
        self._words = ""
        self._units = self._held = 0
        self._changed = asyncio.Event()

    @property
    def version(self) -> str:
        return self._engine.version

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        """The engine's answer.

        Raises:
            EngineError: The engine fails as a whole, or refused all first requests alike.
        """
        if self._is_over:
            return await self._engine.generate(request, sampling, on_piece)
        if self._failure:
            raise self._failure
        self._started += 1
        is_watched = self._started <= FIRST_REQUESTS
        answer = await self._engine.generate(request, sampling, on_piece)
        if not self._is_over:
            self._watch(answer, is_watched)
        if self._refused >= FIRST_REQUESTS:
            await self._stop()
        return answer

    @asynccontextmanager
    async def unit(self, rows: int) -> AsyncIterator[None]:
        """Around a unit of so many rows: while no engine has answered, a unit of refusals waits for
        the verdict of the others that are under way.

        Raises:
            EngineError: As from `generate`.
        """
        self._units += 1
        try:
            yield
            self._rows_seen += rows
            if self._refused:
                await self._wait_for_others()
        finally:
            self._units -= 1
            self._changed.set()

    def _watch(self, answer: Generation, is_watched: bool) -> None:
        alike = describe_refusal(answer)
        if alike is None or (self._alike or alike) != alike:
            self._end()
        elif is_watched:
            self._refused += 1
            self._alike = alike
            self._words = self._words or ": ".join(
                part for part in (answer.reason, answer.reason_detail) if part
            )

    def _end(self) -> None:
        """The engine works: from now on a refusal is its row's own."""
        self._is_over = True
        self._refused = 0
        self._changed.set()
        self._brake.prove()

    async def _wait_for_others(self) -> None:
        self._held += 1
        self._changed.set()
        try:
            while not (self._is_over or self._failure or self._held >= self._units):
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._held -= 1
        is_whole_run = self._rows_seen >= self._rows and self._refused >= _FEWEST_ROWS
        if self._failure or self._refused >= _LEAST_REFUSALS or is_whole_run:
            await self._stop()

    async def _stop(self) -> None:
        """Raises EngineError: No engine of the run has answered anything."""
        if self._failure is None:
            if await self._brake.is_proven_now():
                self._end()
            if self._is_over:
                return
            self._failure = EngineError(self._name, self._describe_failure())
            self._changed.set()
        raise self._failure

    def _describe_failure(self) -> str:
        return (
            f"the first {self._refused} requests were all refused alike: "
            f"{self._words.rstrip('.')}; nothing of them was written: correct what this names and "
            "give the command again (with another --output, unless it is one of --settings)"
        )


def describe_refusal(answer: Generation) -> str | None:
    """The reason and words of a refusal, without numbers and names that differ between two requests
    with the same fault; None if the answer is no refusal that a setting can cause."""
    reason = answer.reason or ""
    is_refusal = reason.startswith("engine_refused:") or reason == "thinking_unfinished"
    if answer.text is not None or not is_refusal or _OWN_FAULT.match(reason):
        return None
    return f"{reason} " + re.sub(r"\S*\d\S*", "#", answer.reason_detail or "")
