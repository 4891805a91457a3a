"""Asking a model's replicas: queues that are full and replicas that die, in fixed answers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
)
from ray.serve.handle import DeploymentHandle

from s4v_core.captioning.ladder import Ending
from s4v_core.engines.requests import Generation, Request, SamplingConfig
from serve.engines.models import Model
from serve.front.refusals import RETRY_AFTER_S, Refusal, overloaded

TRIES = 3
"""Of a request whose replica dies: it asks the same of another one."""

LOOK_S = 2.0

FULL_S = 0.25
"""A full queue is believed to be full for so long, unless an answer comes before."""

SENTENCES = {
    "engine_died": "No engine survives this request.",
    "hang": "The engine never came back from this request.",
}
"""By the reason of an answer without text; every other one is the engine's refusal."""


class Asked:
    """One model's replicas behind their handle."""

    def __init__(self, model: Model, handle: DeploymentHandle) -> None:
        self.model = model
        self._handle = handle
        self._streaming = handle.options(stream=True)
        scaling = model.config.scaling
        self._was_up = scaling.min_replicas == 0
        self._places = scaling.max_ongoing_requests * scaling.max_replicas
        self._places += scaling.max_queued_requests
        self._taken = 0
        self._full_until = 0.0

    def is_full(self) -> bool:
        """Whether `place` would refuse now."""
        return self._taken >= self._places or time.monotonic() < self._full_until

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """To be held before an image is decoded: who cannot be served is told at once, and costs
        those who can nothing.

        Raises:
            Refusal: More are on their way than all engines and their queue can take, or the queue
                was full a moment ago and nobody has been answered since.
        """
        if self.is_full():
            raise overloaded()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def is_up(self) -> bool:
        """Whether one of its engines has ever answered, or none is kept up. Later a busy engine
        must not look like a missing one."""
        if not self._was_up:
            try:
                await asyncio.wait_for(self._handle.check_health.remote(), LOOK_S)
                self._was_up = True
            except (TimeoutError, RayActorError, RayTaskError, RayServeException):
                pass
        return self._was_up

    async def caption(self, request: Request) -> Ending:
        """Raises Refusal: Nobody can answer now."""
        model = self.model
        found: Ending = await self._retried("caption", request, model.samplings, model.config.gate)
        return found

    async def complete(self, request: Request, sampling: SamplingConfig) -> Generation:
        """Raises Refusal: Nobody can answer now, or ever."""
        found: Generation = await self._retried("complete", request, sampling)
        return checked(found)

    async def stream(
        self, request: Request, sampling: SamplingConfig
    ) -> AsyncIterator[str | Generation]:
        """Pieces of text, then the answer. Raises Refusal: Nobody can answer now, or ever."""
        async with self._in_fixed_words():
            async for piece in self._streaming.stream.remote(request, sampling):
                yield checked(piece) if isinstance(piece, Generation) else piece

    async def _retried(self, method: str, *args: Any) -> Any:
        for attempt in range(1, TRIES + 1):
            async with self._in_fixed_words():
                try:
                    return await getattr(self._handle, method).remote(*args)
                except RayActorError:
                    if attempt == TRIES:
                        raise
            await asyncio.sleep(0.1 * attempt)

    @asynccontextmanager
    async def _in_fixed_words(self) -> AsyncIterator[None]:
        try:
            yield
            self._full_until = 0.0  # a place is free
        except BackPressureError:
            self._full_until = time.monotonic() + FULL_S
            raise overloaded() from None
        except (RayActorError, DeploymentUnavailableError, RayTaskError):
            raise Refusal(
                503, "engine_unavailable", "No engine can answer now.", RETRY_AFTER_S
            ) from None


def checked(answer: Generation) -> Generation:
    """Raises Refusal: It holds no text."""
    if answer.text is not None:
        return answer
    if answer.reason in SENTENCES:
        raise Refusal(422, answer.reason, SENTENCES[answer.reason])
    told = "The engine does not take this request; it may be too long."
    raise Refusal(400, "engine_refused", told)
