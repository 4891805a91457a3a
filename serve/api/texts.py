"""Gets generated texts from the engines, whole or as a stream of events."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse

from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from serve.api.answers import read_request_id
from serve.engines.client import ReplicaClient
from serve.engines.models import Model
from serve.front.metrics import ServeMetrics
from serve.front.refusals import Refusal

log = logging.getLogger("s4v.serve")

_EVENT_STREAM = "text/event-stream"


class EventWriter(Protocol):
    """Writes the server-sent events of one kind of answer."""

    def write_opening(self) -> bytes:
        """Write the events before the first piece of text."""
        ...

    def write_piece(self, piece: str | Generation) -> bytes:
        """Write the event of a piece of text, or the events that end the answer."""
        ...

    def write_refusal(self, refusal: Refusal) -> bytes:
        """Write the event of an error in the middle of an answer."""
        ...

    def write_end(self) -> bytes:
        """Write what follows the last event."""
        ...


class TextGeneration:
    """Generates the texts of one ingress replica."""

    def __init__(self, metrics: ServeMetrics, timeout_s: float, logs_texts: bool) -> None:
        self._metrics, self._timeout_s, self._logs_texts = metrics, timeout_s, logs_texts

    async def complete(
        self, client: ReplicaClient, request: Request, sampling: SamplingConfig, http: HttpRequest
    ) -> Generation:
        """Generate one whole text.

        Raises:
            Refusal: 429 or 503, no engine can answer now; 400 or 422, no engine can ever answer.
        """
        answer = await client.complete(request, sampling)
        self._count_tokens(client.model, answer)
        self._log_texts(http, request.prompt, answer.text)
        return answer

    async def start_stream(
        self,
        writer: EventWriter,
        client: ReplicaClient,
        request: Request,
        sampling: SamplingConfig,
    ) -> Response:
        """Start a streamed answer after its first piece has arrived, because a request that is
        refused before that can still be answered with an error status.

        Raises:
            Refusal: As for `complete`.
        """
        pieces = client.stream(request, sampling)
        first = await anext(pieces)
        events = self._write_events(writer, client.model, first, pieces)
        return StreamingResponse(events, media_type=_EVENT_STREAM)

    async def _write_events(
        self,
        writer: EventWriter,
        model: Model,
        first: str | Generation,
        rest: AsyncIterator[str | Generation],
    ) -> AsyncIterator[bytes]:
        yield writer.write_opening()
        try:
            async with limit_time(self._timeout_s):
                yield writer.write_piece(first)
                async for piece in rest:
                    yield writer.write_piece(piece)
                    if isinstance(piece, Generation):
                        self._count_tokens(model, piece)
        except Refusal as refusal:
            yield writer.write_refusal(refusal)
        yield writer.write_end()

    def _count_tokens(self, model: Model, answer: Generation) -> None:
        self._metrics.count_tokens(model.config.id, answer.prompt_tokens, answer.output_tokens)

    def _log_texts(self, http: HttpRequest, prompt: str, answer: str | None) -> None:
        if self._logs_texts:
            log.info(
                "%s", json.dumps({"id": read_request_id(http), "prompt": prompt, "text": answer})
            )


@asynccontextmanager
async def limit_time(limit_s: float) -> AsyncIterator[None]:
    """Limit the time until an answer.

    Raises:
        Refusal: 504, the time is over.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise Refusal(504, "timeout", "The answer took too long.") from None


@contextmanager
def blame(place: str) -> Iterator[None]:
    """Name the part of the request that is refused inside, unless the refusal names one."""
    try:
        yield
    except Refusal as refusal:
        if refusal.param is None and refusal.status in (400, 403, 404, 413, 415, 422):
            refusal.param = place
        raise
