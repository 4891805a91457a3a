"""Client of one model's replicas. Turns full queues and dead replicas into fixed refusals."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
)
from ray.serve.handle import DeploymentHandle

from s4v_core.engines.ladder import Ending
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import EngineError
from serve.engines.models import Model
from serve.front.refusals import RETRY_AFTER_S, Refusal, make_overload_refusal

_MAX_TRIES = 3
"""How often a request is sent if its replica dies each time. Every try goes to another replica."""

_TEMPLATE_REFUSES = (
    "The model's template does not take this conversation; a text may spell an image mark of the "
    "model."
)

_HEALTH_TIMEOUT_S = 2.0
"""Seconds to wait for the answer of a health check."""

_REPLICA_GONE = (RayActorError, AioRpcError)
"""A replica died or shut down. It is gRPC's error if the call was under way (node_variables.py)."""

_NO_ANSWER = (*_REPLICA_GONE, RayTaskError, EngineError, DeploymentUnavailableError)
"""Errors of a call that no engine can answer now. A replica's own error comes as it is with gRPC,
and as a RayTaskError with Ray's actor calls."""

_FULL_QUEUE_S = 0.25
"""Seconds for which a full queue is assumed to stay full, unless an answer arrives earlier."""

_SENTENCES = {
    "engine_died": "No engine survives this request.",
    "hang": "The engine never came back from this request.",
}
"""Reason of an answer without text -> sentence. With any other reason, the engine refused the
request."""

_TOO_LONG = (
    re.compile(r"\(length (?P<found>\d+)\).* model length of (?P<most>\d+)"),
    re.compile(r"context length is (?P<most>\d+) tokens.* contains (?:at least )?(?P<found>\d+)"),
)
"""How vLLM says that a prompt is too long."""


class ReplicaClient:
    """Sends requests to the replicas of one model, through their deployment handle."""

    def __init__(self, model: Model, handle: DeploymentHandle) -> None:
        self.model = model
        self._handle = handle
        self._streaming = handle.options(stream=True)
        scaling = model.scaling
        self._scales_to_zero = scaling.min_replicas == 0
        self._idle_limit_s = scaling.downscale_delay_s
        self._last_answer = -math.inf
        self._was_up = scaling.min_replicas == 0
        self._slots = scaling.max_ongoing_requests * scaling.max_replicas
        self._slots += scaling.max_queued_requests
        self._taken = 0
        self._full_until = 0.0
        self._max_model_len: int | None = None

    def is_full(self) -> bool:
        """Whether `reserve_slot` would refuse now."""
        return self._taken >= self._slots or time.monotonic() < self._full_until

    def may_be_cold(self) -> bool:
        """Whether the model's engines may have been scaled to zero, so that a request waits for one
        to start."""
        idle_s = time.monotonic() - self._last_answer
        return self._scales_to_zero and idle_s > self._idle_limit_s

    @asynccontextmanager
    async def reserve_slot(self) -> AsyncIterator[None]:
        """Reserve a slot before an image is decoded, so that an overloaded endpoint refuses early
        and spends no work on requests that it cannot serve.

        Raises:
            Refusal: 429; more requests are under way than all engines and their queue can take, or
                the queue was full a moment ago and no request has been answered since.
        """
        if self.is_full():
            raise make_overload_refusal()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def is_up(self) -> bool:
        """Whether an engine has ever answered, or none has to run permanently. Once true, it stays
        true, because a busy engine must not look like a missing one."""
        if not self._was_up:
            try:
                await asyncio.wait_for(self._handle.check_health.remote(), _HEALTH_TIMEOUT_S)
                self._was_up = True
            except (TimeoutError, RayServeException, *_NO_ANSWER):
                pass
        return self._was_up

    async def caption(self, request: Request) -> Ending:
        """Caption an image, with gate and retries.

        Raises:
            Refusal: 429 or 503, no engine can answer now.
        """
        model = self.model
        request = self._prepare(request)
        end: Ending = await self._call("caption", request, model.samplings, model.config.gate)
        return end

    async def complete(self, request: Request, sampling: SamplingConfig) -> Generation:
        """Generate one whole answer.

        Raises:
            Refusal: 429 or 503, no engine can answer now; 400 or 422, no engine can ever answer.
        """
        request = self._prepare(request)
        answer: Generation = await self._call("complete", request, sampling)
        return _require_text(answer)

    async def tokenize(self, request: Request) -> list[int]:
        """Tokenize a request's prompt.

        Raises:
            Refusal: 429 or 503, no engine can answer now; 400, the template refuses the request.
        """
        found: list[int] | str = await self._call("tokenize", request)
        if isinstance(found, str):
            raise Refusal(400, "engine_refused", _TEMPLATE_REFUSES)
        return found

    async def find_max_model_len(self) -> int | None:
        """Find the most tokens of a prompt and its answer; None if no engine says so now."""
        self._max_model_len = self._max_model_len or self.model.config.settings.max_model_len
        if self._max_model_len is None and self.model.config.scaling.min_replicas:
            try:
                found = self._handle.read_max_model_len.remote()
                self._max_model_len = await asyncio.wait_for(found, _HEALTH_TIMEOUT_S)
            except (TimeoutError, RayServeException, *_NO_ANSWER):
                pass
        return self._max_model_len

    async def stream(
        self, request: Request, sampling: SamplingConfig
    ) -> AsyncIterator[str | Generation]:
        """Generate one answer in pieces of text, followed by the whole answer.

        Raises:
            Refusal: 429 or 503, no engine can answer now; 400 or 422, no engine can ever answer.
        """
        async with self._translate_errors():
            request = self._prepare(request)
            pieces = self._streaming.stream.remote(request, sampling)
            try:
                async for piece in pieces:
                    yield _require_text(piece) if isinstance(piece, Generation) else piece
            except (asyncio.CancelledError, GeneratorExit):
                pieces.cancel()
                raise

    def _prepare(self, request: Request) -> Request:
        """Name the adapter of this model in a request.

        Raises:
            Refusal: 400, the model takes no images and the request has one.
        """
        if request.images and not self.model.facts.takes_images:
            raise Refusal(400, "no_images", "This model takes no images.")
        return replace(request, adapter=self.model.adapter) if self.model.adapter else request

    async def _call(self, method: str, *args: Any) -> Any:
        """Call a method of a replica, and again on another one if the replica dies."""
        for attempt in range(1, _MAX_TRIES + 1):
            async with self._translate_errors():
                answer = getattr(self._handle, method).remote(*args)
                try:
                    return await answer
                except asyncio.CancelledError:
                    answer.cancel()  # else the engine goes on for nobody
                    raise
                except _REPLICA_GONE:
                    if attempt == _MAX_TRIES:
                        raise
            await asyncio.sleep(0.1 * attempt)

    @asynccontextmanager
    async def _translate_errors(self) -> AsyncIterator[None]:
        """Turn Ray's errors into refusals, and note whether the queue is full."""
        try:
            yield
            self._full_until = 0.0  # an answer frees a place in the queue
            self._last_answer = time.monotonic()
        except BackPressureError:
            self._full_until = time.monotonic() + _FULL_QUEUE_S
            raise make_overload_refusal() from None
        except _NO_ANSWER:
            raise _make_engine_unavailable() from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Nobody cancelled this task: it is the replica's error, whose work was cancelled there.
            raise _make_engine_unavailable() from None


def _make_engine_unavailable() -> Refusal:
    return Refusal(503, "engine_unavailable", "No engine can answer now.", RETRY_AFTER_S)


def _require_text(answer: Generation) -> Generation:
    """Return the answer if it has text.

    Raises:
        Refusal: 400 or 422, it has none.
    """
    if answer.text is not None:
        return answer
    if answer.reason in _SENTENCES:
        raise Refusal(422, answer.reason, _SENTENCES[answer.reason])
    raise make_engine_refusal(answer)


def make_engine_refusal(answer: Generation) -> Refusal:
    """Make the refusal of a request that the engine did not take, with numbers where it is too
    long. The engine's own words are not passed on."""
    detail = answer.reason_detail or ""
    if lengths := next(filter(None, (how.search(detail) for how in _TOO_LONG)), None):
        found, most = lengths["found"], lengths["most"]
        message = (
            f"This model's maximum context length is {most} tokens. However, your request has "
            f"{found} tokens. Please send a shorter one."
        )
        return Refusal(400, "context_length_exceeded", message)
    if answer.reason == "engine_refused:ConfigError":
        return Refusal(400, "engine_refused", _TEMPLATE_REFUSES)
    if "out-of-vocab" in detail:
        message = "logit_bias: found a token id that the model does not have."
        return Refusal(400, "bad_logit_bias", message, param="logit_bias")
    message = "The engine does not take this request; its length, its images or the form of its "
    return Refusal(400, "engine_refused", f"{message}answer may be the reason.")
