"""Gets generated texts from the engines, whole or as a stream of events."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Protocol

from fastapi.responses import Response, StreamingResponse

from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from serve.api.keep_alive import COMMENT, KEEP_ALIVE_S, fill_silence
from serve.api.model_access import ModelAccess
from serve.engines.client import ReplicaClient
from serve.front.refusals import Refusal

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

    def __init__(self, access: ModelAccess) -> None:
        self._access = access

    async def complete(
        self, client: ReplicaClient, request: Request, sampling: SamplingConfig
    ) -> Generation:
        """Generate one whole text.

        Raises:
            Refusal: 429 or 503, no engine can answer now; 400 or 422, no engine can ever answer.
        """
        answer = await client.complete(request, sampling)
        self._access.note_answer(client.model, request, answer)
        return answer

    async def start_stream(
        self,
        writer: EventWriter,
        client: ReplicaClient,
        request: Request,
        sampling: SamplingConfig,
    ) -> Response:
        """Start a streamed answer after its first piece has arrived, because a request that is
        refused before that can still be answered with an error status. Where an engine may have to
        start first, it starts at once, because clients do not wait for minutes in silence.

        Raises:
            Refusal: As for `complete`.
        """
        limit = self._access.limit_time(client)
        pieces = self._stream(client, request, sampling)
        first = None if client.may_be_cold() else await anext(pieces)
        events = self._write_events(writer, limit, first, pieces)
        return StreamingResponse(events, media_type=_EVENT_STREAM)

    async def _stream(
        self, client: ReplicaClient, request: Request, sampling: SamplingConfig
    ) -> AsyncIterator[str | Generation]:
        async for piece in client.stream(request, sampling):
            if isinstance(piece, Generation):
                self._access.note_answer(client.model, request, piece)
            yield piece

    async def _write_events(
        self,
        writer: EventWriter,
        limit: AbstractAsyncContextManager[None],
        first: str | Generation | None,
        rest: AsyncIterator[str | Generation],
    ) -> AsyncIterator[bytes]:
        yield writer.write_opening()
        try:
            async with limit:
                if first is not None:
                    yield writer.write_piece(first)
                async for piece in fill_silence(rest, KEEP_ALIVE_S):
                    yield COMMENT if piece is None else writer.write_piece(piece)
        except Refusal as refusal:
            yield writer.write_refusal(refusal)
        yield writer.write_end()


@contextmanager
def blame(place: str) -> Iterator[None]:
    """Name the part of the request that is refused inside, unless the refusal names one."""
    try:
        yield
    except Refusal as refusal:
        if refusal.param is None and refusal.status in (400, 403, 404, 413, 415, 422):
            refusal.param = place
        raise
