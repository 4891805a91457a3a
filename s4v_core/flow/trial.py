"""The first requests of a run, as a trial: if an engine refuses them all alike, the run ends.

A wrong setting makes an engine refuse every request with the same words. Without this the run would
write a failed row for each image. Once any engine of the run has answered, or refused two requests
for different reasons, the trial is over, and a refusal is its row's own.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from s4v_core.engines.choice import RunningEngine
from s4v_core.engines.requests import Generation, OnPiece, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.thinking import UNFINISHED
from s4v_core.errors import EngineError
from s4v_core.flow.brake import Brake

FIRST_REQUESTS = 32
"""Requests that are on trial, in the order of their start. Refusals come faster than answers, so
the first ones that end say nothing: with a setting that refuses two images in three, eight in a row
are common, and 32 in a row never happen."""

_LEAST_REFUSALS = 8
"""Refusals that end a run while no engine has anything else to do; in a run of fewer rows, all of
them do."""

HOLD_LIMIT_S = 120.0
"""Seconds that refused rows wait for those of another unit or engine, which may be starting."""

_LOOK_EVERY_S = 0.3

_FEWEST_ROWS = 3
"""A run of one or two rows always gets them: two images may both be at fault."""

_OWN_FAULT = re.compile(r"engine_refused:(content_filter|model_refusal)$")
"""Reasons that concern what one request shows; an engine that gives them works."""


class EngineTrial:
    """An engine as tasks use it, whose first requests are watched. Used from one event loop."""

    def __init__(
        self, engine: RunningEngine, name: str, rows: int, most_units: int, brake: Brake
    ) -> None:
        """Args:
        name: The engine's name, for the sentence that ends the run.
        rows: Rows of the whole run; 0 if there is no trial.
        most_units: Units that come to this engine at the same time.
        """
        self._engine, self._name, self._rows, self._brake = engine, name, rows, brake
        self._most_units = most_units
        self._is_over, self._may_hold = rows == 0, True
        self._failure: EngineError | None = None
        self._started = self._refused = self._reported = self._held = 0
        self._alike: str | None = None
        self._words = ""
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
            await self._stop(self._refused)
        return answer

    @asynccontextmanager
    async def unit(self, rows: int) -> AsyncIterator[None]:
        """Around a unit of so many rows: while no engine has answered, a unit of refusals waits for
        the verdict of the others.

        Raises:
            EngineError: As from `generate`.
        """
        if self._is_over:
            yield
            return
        await self._brake.begin_rows(rows)
        yield
        new, self._reported = self._refused - self._reported, self._refused
        await self._brake.end_rows(rows, max(new, 0), self._alike)
        if self._refused:
            await self._wait_for_verdict()

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

    async def _wait_for_verdict(self) -> None:
        deadline = time.monotonic() + HOLD_LIMIT_S
        self._held += 1
        try:
            while not self._is_over:
                counts = await self._brake.read_trial()
                has_all = counts.ended >= self._rows
                if counts.is_proven:
                    self._end()
                elif self._failure or (
                    counts.started <= counts.ended
                    and counts.refused >= (_FEWEST_ROWS if has_all else _LEAST_REFUSALS)
                ):
                    await self._stop(counts.refused)
                elif has_all or not self._may_hold:
                    return
                elif self._held >= self._most_units or time.monotonic() > deadline:
                    self._may_hold = False  # nothing else can come
                    return
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _LOOK_EVERY_S)
        finally:
            self._held -= 1

    async def _stop(self, refused: int) -> None:
        """Raises EngineError: No engine of the run has answered anything."""
        if self._failure is None:
            if (await self._brake.read_trial()).is_proven:
                self._end()
            if self._is_over:
                return
            self._failure = EngineError(self._name, self._describe_failure(refused))
            self._changed.set()
        raise self._failure

    def _describe_failure(self, refused: int) -> str:
        return (
            f"the first {refused} requests were all refused alike: "
            f"{self._words.rstrip('.')}; nothing of them was written: correct what this names and "
            "give the command again (with another --output, if what identifies the run changes)"
        )


def describe_refusal(answer: Generation) -> str | None:
    """The reason and words of a refusal, without numbers and names that differ between two requests
    with the same fault; None if the answer is no refusal that a setting can cause."""
    reason = answer.reason or ""
    is_refusal = reason.startswith("engine_refused:") or reason == UNFINISHED
    if answer.text is not None or not is_refusal or _OWN_FAULT.match(reason):
        return None
    return f"{reason} " + re.sub(r"\S*\d\S*", "#", answer.reason_detail or "")
