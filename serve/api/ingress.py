"""Implements the routes: checks requests, decodes images, calls the replicas and answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from ray.serve.handle import DeploymentHandle

from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.requests import Picture as Pixels
from s4v_core.engines.sampling import SamplingConfig
from serve.api.answers import (
    ChatStream,
    TextStream,
    build_caption_answer,
    build_usage,
    find_finish_reason,
    read_request_id,
)
from serve.api.conversations import Conversation, check_length, read_conversation, read_sampling
from serve.api.keep_alive import COMMENT, KEEP_ALIVE_S, fill_silence
from serve.api.model_access import ModelAccess
from serve.api.pictures import Picture, PictureLoader, read_base64
from serve.api.schemas import (
    AnswerMessage,
    BatchLine,
    BatchRequest,
    CaptionAnswer,
    CaptionOptions,
    CaptionRequest,
    ChatAnswer,
    ChatChoice,
    ChatRequest,
    CompletionAnswer,
    CompletionChoice,
    CompletionRequest,
    ModelCard,
    ModelList,
)
from serve.api.uploads import read_caption_request
from serve.engines.client import ReplicaClient
from serve.engines.models import Model
from serve.front.fetching import Fetcher
from serve.front.refusals import Refusal, make_overload_refusal
from serve.front.scraping import scrape_nodes
from serve.settings import ServeConfig

_EVENT_STREAM = "text/event-stream"
_NDJSON = "application/x-ndjson"
_BATCH_CONCURRENCY = 8
"""Images of one batch that are worked on at a time: one batch must not fill the engines' queue."""


class Ingress(ModelAccess):
    """One replica of the ingress deployment."""

    def __init__(
        self, config: ServeConfig, models: tuple[Model, ...], *handles: DeploymentHandle
    ) -> None:
        super().__init__(config, models, handles)
        self._pictures = PictureLoader(config.decode, config.decoders, Fetcher(config.fetch))

    async def healthz(self) -> Response:
        """Answer ok as long as the process runs."""
        return PlainTextResponse("ok")

    async def readyz(self) -> Response:
        """Answer ok when every model that is configured to run permanently has a running engine."""
        up = await asyncio.gather(*(client.is_up() for client in self._clients.values()))
        return PlainTextResponse("ok") if all(up) else PlainTextResponse("starting", 503)

    async def models(self) -> ModelList:
        """List all models."""
        return ModelList(data=[ModelCard(id=name) for name in self._list_names()])

    async def prometheus(self) -> Response:
        """Show the metrics of all nodes in Prometheus' text format."""
        return PlainTextResponse(await scrape_nodes())

    async def model(self, model: str) -> ModelCard:
        """Describe one model."""
        return ModelCard(id=self._find_client(model).model.config.id)

    async def chat(self, body: ChatRequest, http: HttpRequest) -> Response:
        """Answer the last message of a conversation, which may contain one image."""
        client = self._find_client(body.model)
        conversation = read_conversation(body.messages, self._config.limits)
        sampling = read_sampling(body, client.model.config.sampling, self._config.limits)
        async with self._limit_time(client), client.reserve_slot():
            request = await self._build_chat_request(conversation, client.model, http)
            if body.stream:
                return await self._start_stream(ChatStream(body, http), client, request, sampling)
            answer = await self._complete(client, request, sampling)
        message = AnswerMessage(content=answer.text or "")
        choice = ChatChoice(message=message, finish_reason=find_finish_reason(answer))
        return _respond_json(
            ChatAnswer(
                id=f"chatcmpl-{read_request_id(http)}",
                created=int(time.time()),
                model=body.model,
                choices=[choice],
                usage=build_usage(answer),
            )
        )

    async def completions(self, body: CompletionRequest, http: HttpRequest) -> Response:
        """Continue a text."""
        client = self._find_client(body.model)
        check_length(len(body.prompt), self._config.limits)
        sampling = read_sampling(body, client.model.config.sampling, self._config.limits)
        request = Request(read_request_id(http), "", (), body.prompt, is_raw=True)
        async with self._limit_time(client), client.reserve_slot():
            if body.stream:
                return await self._start_stream(TextStream(body, http), client, request, sampling)
            answer = await self._complete(client, request, sampling)
        choice = CompletionChoice(text=answer.text or "", finish_reason=find_finish_reason(answer))
        return _respond_json(
            CompletionAnswer(
                id=f"cmpl-{read_request_id(http)}",
                created=int(time.time()),
                model=body.model,
                choices=[choice],
                usage=build_usage(answer),
            )
        )

    async def caption(self, http: HttpRequest) -> CaptionAnswer:
        """Caption one image as a batch pass does: with the same decoding, gate and retries."""
        if all(client.is_full() for client in self._clients.values()):
            raise make_overload_refusal()  # before the body is read, which would take longest
        data, body = await read_caption_request(http)
        async with self._limit_time(self._find_client(body.model)):
            return await self._caption_image(data, body, read_request_id(http))

    async def captions(self, body: BatchRequest, http: HttpRequest) -> Response:
        """Caption several images. The answer has one line of NDJSON for each, in the order in which
        they are finished."""
        limit = self._config.limits.max_batch_images
        if len(body.images) > limit:
            raise Refusal(400, "too_many_images", f"At most {limit} images.")
        images = [_fill_defaults(image, body) for image in body.images]
        for image in images:
            self._find_client(image.model)  # an unknown model refuses the whole batch
        lines = self._write_lines(images, read_request_id(http))
        return StreamingResponse(lines, media_type=_NDJSON)

    async def _write_lines(self, images: list[CaptionRequest], name: str) -> AsyncIterator[bytes]:
        slots = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def caption_line(index: int, image: CaptionRequest) -> BatchLine:
            try:
                async with slots, self._limit_time(self._find_client(image.model)):
                    answer = await self._caption_image(None, image, f"{name}-{index}")
                return BatchLine(index=index, answer=answer)
            except Refusal as refusal:
                self._metrics.count_refusal(refusal.code)
                return BatchLine(index=index, error=json.loads(refusal.body())["error"])

        tasks = [asyncio.create_task(caption_line(n, image)) for n, image in enumerate(images)]
        try:
            for done in asyncio.as_completed(tasks):
                yield (await done).model_dump_json().encode() + b"\n"
        finally:
            for task in tasks:
                task.cancel()

    async def _build_chat_request(
        self, conversation: Conversation, model: Model, http: HttpRequest
    ) -> Request:
        images: tuple[Pixels, ...] = ()
        names: tuple[str, ...] = ()
        digest = conversation.digest
        if conversation.image_url is not None:
            framing = model.facts.framing
            picture = await self._pictures.load_from_url(conversation.image_url, framing)
            images, digest = (picture.pixels,), digest + picture.sha256
            names = (picture.sha256,)  # the same in every turn, unlike the digest
        return Request(
            key=read_request_id(http),
            content=digest,
            images=images,
            prompt=conversation.question,
            image_names=names,
            earlier=conversation.earlier,
            system=conversation.system,
            image_turns=(conversation.image_turn,) * len(images),
        )

    async def _caption_image(
        self, data: bytes | None, body: CaptionOptions, name: str
    ) -> CaptionAnswer:
        client = self._find_client(body.model)
        model = client.model
        prompt = body.prompt or model.config.prompt
        check_length(len(prompt), self._config.limits)
        async with client.reserve_slot():
            picture = await self._load_picture(data, body, model)
            request = Request(
                name, picture.sha256, (picture.pixels,), prompt, image_names=(picture.sha256,)
            )
            started = time.monotonic()
            end = await client.caption(request)
        self._metrics.count_caption(model.config.id, end.status, end.reason)
        if end.answer:
            self._note_answer(model, request, end.answer)
        generate_ms = 1000 * (time.monotonic() - started)
        return build_caption_answer(request, body, model, picture, end, generate_ms)

    async def _load_picture(
        self, data: bytes | None, body: CaptionOptions, model: Model
    ) -> Picture:
        framing = model.facts.framing
        if isinstance(body, CaptionRequest):
            if body.url is not None:
                return await self._pictures.load_from_url(body.url, framing)
            data = read_base64(body.image or "")
        return await self._pictures.load_from_bytes(data or b"", framing)

    async def _start_stream(
        self,
        writer: ChatStream,
        client: ReplicaClient,
        request: Request,
        sampling: SamplingConfig,
    ) -> Response:
        """Start a streamed answer after its first piece has arrived, because a request that is
        refused before that can still be answered with an error status. Where an engine may have to
        start first, it starts at once, because clients do not wait for minutes in silence."""
        limit = self._limit_time(client)
        pieces = self._stream(client, request, sampling)
        first = None if client.may_be_cold() else await anext(pieces)
        events = self._write_events(writer, limit, first, pieces)
        return StreamingResponse(events, media_type=_EVENT_STREAM)

    async def _write_events(
        self,
        writer: ChatStream,
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
            yield b"data: " + refusal.body() + b"\n\n"
        yield b"data: [DONE]\n\n"


def _fill_defaults(image: CaptionRequest, batch: BatchRequest) -> CaptionRequest:
    """Copy an image with the batch's prompt and model in place of those that it leaves unset."""
    prompt = batch.prompt if image.prompt is None else image.prompt
    model = batch.model if image.model is None else image.model
    return image.model_copy(update={"prompt": prompt, "model": model})


def _respond_json(answer: ChatAnswer | CompletionAnswer) -> Response:
    return JSONResponse(answer.model_dump())
