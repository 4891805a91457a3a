"""Implements the routes: checks requests, decodes images, calls the replicas and answers."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
from serve.front.metrics import build_metrics
from serve.front.refusals import Refusal, make_overload_refusal
from serve.settings import ServeConfig

log = logging.getLogger("s4v.serve")

_EVENT_STREAM = "text/event-stream"
_NDJSON = "application/x-ndjson"
_BATCH_CONCURRENCY = 8
"""Images of one batch that are worked on at a time: one batch must not fill the engines' queue."""


class Ingress:
    """One replica of the ingress deployment."""

    def __init__(
        self, config: ServeConfig, models: tuple[Model, ...], *handles: DeploymentHandle
    ) -> None:
        self._config = config
        self._clients = {
            model.config.id: ReplicaClient(model, handle)
            for model, handle in zip(models, handles, strict=True)
        }
        self._pictures = PictureLoader(config.decode, config.decoders, Fetcher(config.fetch))
        self._metrics = build_metrics()

    async def healthz(self) -> Response:
        """Answer ok as long as the process runs."""
        return PlainTextResponse("ok")

    async def readyz(self) -> Response:
        """Answer ok when every model that is configured to run permanently has a running engine."""
        up = await asyncio.gather(*(client.is_up() for client in self._clients.values()))
        return PlainTextResponse("ok") if all(up) else PlainTextResponse("starting", 503)

    async def models(self) -> ModelList:
        """List all models."""
        return ModelList(data=[ModelCard(id=name) for name in self._clients])

    async def model(self, model: str) -> ModelCard:
        """Describe one model."""
        return ModelCard(id=self._find_client(model).model.config.id)

    async def chat(self, body: ChatRequest, http: HttpRequest) -> Response:
        """Answer the last message of a conversation, which may contain one image."""
        client = self._find_client(body.model)
        conversation = read_conversation(body.messages, self._config.limits)
        sampling = read_sampling(body, client.model.config.sampling, self._config.limits)
        async with _limit_time(self._config.limits.timeout_s), client.reserve_slot():
            request = await self._build_chat_request(conversation, client.model, http)
            if body.stream:
                return await self._start_stream(ChatStream(body, http), client, request, sampling)
            answer = await self._complete(client, request, sampling)
        self._log_texts(http, request.prompt, answer.text)
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
        async with _limit_time(self._config.limits.timeout_s), client.reserve_slot():
            if body.stream:
                return await self._start_stream(TextStream(body, http), client, request, sampling)
            answer = await self._complete(client, request, sampling)
        self._log_texts(http, request.prompt, answer.text)
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
        async with _limit_time(self._config.limits.timeout_s):
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
                async with slots, _limit_time(self._config.limits.timeout_s):
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
        digest = conversation.digest
        if conversation.image_url is not None:
            framing = model.facts.framing
            picture = await self._pictures.load_from_url(conversation.image_url, framing)
            images, digest = (picture.pixels,), digest + picture.sha256
        return Request(
            key=read_request_id(http),
            content=digest,
            images=images,
            prompt=conversation.question,
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
            request = Request(name, picture.sha256, (picture.pixels,), prompt)
            started = time.monotonic()
            end = await client.caption(request)
        self._metrics.count_caption(model.config.id, end.status, end.reason)
        if end.answer:
            self._count_tokens(model, end.answer)
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

    async def _complete(
        self, client: ReplicaClient, request: Request, sampling: SamplingConfig
    ) -> Generation:
        answer = await client.complete(request, sampling)
        self._count_tokens(client.model, answer)
        return answer

    async def _start_stream(
        self,
        writer: ChatStream,
        client: ReplicaClient,
        request: Request,
        sampling: SamplingConfig,
    ) -> Response:
        """Start a streamed answer after its first piece has arrived, because a request that is
        refused before that can still be answered with an error status."""
        pieces = client.stream(request, sampling)
        first = await anext(pieces)
        events = self._write_events(writer, client.model, first, pieces)
        return StreamingResponse(events, media_type=_EVENT_STREAM)

    async def _write_events(
        self,
        writer: ChatStream,
        model: Model,
        first: str | Generation,
        rest: AsyncIterator[str | Generation],
    ) -> AsyncIterator[bytes]:
        yield writer.write_opening()
        try:
            async with _limit_time(self._config.limits.timeout_s):
                yield writer.write_piece(first)
                async for piece in rest:
                    yield writer.write_piece(piece)
                    if isinstance(piece, Generation):
                        self._count_tokens(model, piece)
        except Refusal as refusal:
            yield b"data: " + refusal.body() + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _find_client(self, model: str | None) -> ReplicaClient:
        if model is None:
            return next(iter(self._clients.values()))
        if model not in self._clients:
            raise Refusal(404, "model_not_found", "There is no such model.")
        return self._clients[model]

    def _count_tokens(self, model: Model, answer: Generation) -> None:
        self._metrics.count_tokens(model.config.id, answer.prompt_tokens, answer.output_tokens)

    def _log_texts(self, http: HttpRequest, prompt: str, answer: str | None) -> None:
        if self._config.log_texts:
            log.info(
                "%s", json.dumps({"id": read_request_id(http), "prompt": prompt, "text": answer})
            )


def _fill_defaults(image: CaptionRequest, batch: BatchRequest) -> CaptionRequest:
    """Copy an image with the batch's prompt and model in place of those that it leaves unset."""
    prompt = batch.prompt if image.prompt is None else image.prompt
    model = batch.model if image.model is None else image.model
    return image.model_copy(update={"prompt": prompt, "model": model})


@asynccontextmanager
async def _limit_time(limit_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise Refusal(504, "timeout", "The answer took too long.") from None


def _respond_json(answer: ChatAnswer | CompletionAnswer) -> Response:
    return JSONResponse(answer.model_dump())
