"""The routes: checks a request, decodes its image, asks a model's replicas, answers."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from ray.serve.handle import DeploymentHandle

from s4v_core.engines.requests import Generation, Request, SamplingConfig
from serve.api.answers import (
    ChatStream,
    TextStream,
    caption_answer,
    finish_reason,
    request_id,
    usage_of,
)
from serve.api.conversations import check_length, read_conversation, read_sampling
from serve.api.pictures import Picture, Pictures, read_base64
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
from serve.engines.client import Asked
from serve.engines.models import Model
from serve.front.fetching import Fetcher
from serve.front.metrics import serve_metrics
from serve.front.refusals import Refusal, overloaded
from serve.settings import ServeConfig

log = logging.getLogger("s4v.serve")

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
BATCH_AT_ONCE = 8
"""Images of one batch that are under way: one batch must not fill the engines' queue."""


class Ingress:
    """One replica of the ingress deployment."""

    def __init__(
        self, config: ServeConfig, models: tuple[Model, ...], *handles: DeploymentHandle
    ) -> None:
        self._config = config
        self._models = {
            model.config.id: Asked(model, handle)
            for model, handle in zip(models, handles, strict=True)
        }
        self._pictures = Pictures(config.decode, config.decoders, Fetcher(config.fetch))
        self._metrics = serve_metrics()

    async def healthz(self) -> Response:
        """The process lives."""
        return PlainTextResponse("ok")

    async def readyz(self) -> Response:
        """Every model that is kept up has an engine."""
        up = await asyncio.gather(*(asked.is_up() for asked in self._models.values()))
        return PlainTextResponse("ok") if all(up) else PlainTextResponse("starting", 503)

    async def models(self) -> ModelList:
        """All models."""
        return ModelList(data=[ModelCard(id=name) for name in self._models])

    async def model(self, model: str) -> ModelCard:
        """One model."""
        return ModelCard(id=self._asked(model).model.config.id)

    async def chat(self, body: ChatRequest, http: HttpRequest) -> Response:
        """A turn of a conversation, with an image or without."""
        asked = self._asked(body.model)
        said = read_conversation(body.messages, self._config.limits)
        sampling = read_sampling(body, asked.model.config.sampling, self._config.limits)
        async with _in_time(self._config.limits.timeout_s), asked.place():
            picture = None
            if said.image_url is not None:
                picture = await self._pictures.from_url(said.image_url, asked.model.facts.framing)
            request = Request(
                image_id=request_id(http),
                image_sha256=said.digest + (picture.sha256 if picture else ""),
                pixels=picture.pixels if picture else None,
                prompt=said.question,
                earlier=said.earlier,
                system=said.system,
                image_turn=said.image_turn,
            )
            if body.stream:
                return await self._streamed(ChatStream(body, http), asked, request, sampling)
            answer = await self._completed(asked, request, sampling)
        self._log_texts(http, request.prompt, answer.text)
        message = AnswerMessage(content=answer.text or "")
        choice = ChatChoice(message=message, finish_reason=finish_reason(answer))
        return _json(
            ChatAnswer(
                id=f"chatcmpl-{request_id(http)}",
                created=int(time.time()),
                model=body.model,
                choices=[choice],
                usage=usage_of(answer),
            )
        )

    async def completions(self, body: CompletionRequest, http: HttpRequest) -> Response:
        """A text that goes on."""
        asked = self._asked(body.model)
        check_length(len(body.prompt), self._config.limits)
        sampling = read_sampling(body, asked.model.config.sampling, self._config.limits)
        request = Request(request_id(http), "", None, body.prompt, raw=True)
        async with _in_time(self._config.limits.timeout_s), asked.place():
            if body.stream:
                return await self._streamed(TextStream(body, http), asked, request, sampling)
            answer = await self._completed(asked, request, sampling)
        self._log_texts(http, request.prompt, answer.text)
        choice = CompletionChoice(text=answer.text or "", finish_reason=finish_reason(answer))
        return _json(
            CompletionAnswer(
                id=f"cmpl-{request_id(http)}",
                created=int(time.time()),
                model=body.model,
                choices=[choice],
                usage=usage_of(answer),
            )
        )

    async def caption(self, http: HttpRequest) -> CaptionAnswer:
        """One image's caption, as a batch pass gives it: the same decoding, gate and ladder."""
        if all(asked.is_full() for asked in self._models.values()):
            raise overloaded()  # without its body, which would take longest of all
        data, body = await read_caption_request(http)
        async with _in_time(self._config.limits.timeout_s):
            return await self._captioned(data, body, request_id(http))

    async def captions(self, body: BatchRequest, http: HttpRequest) -> Response:
        """Captions of several images, one line of NDJSON each, as they are done."""
        most = self._config.limits.max_batch_images
        if len(body.images) > most:
            raise Refusal(400, "too_many_images", f"At most {most} images.")
        given = {"prompt": body.prompt, "model": body.model}
        defaults = {name: value for name, value in given.items() if value is not None}
        images = [
            image.model_copy(
                update={n: v for n, v in defaults.items() if getattr(image, n) is None}
            )
            for image in body.images
        ]
        for image in images:
            self._asked(image.model)  # or nothing is begun
        return StreamingResponse(self._lines(images, request_id(http)), media_type=LINES)

    async def _lines(self, images: list[CaptionRequest], name: str) -> AsyncIterator[bytes]:
        turns = asyncio.Semaphore(BATCH_AT_ONCE)

        async def line(index: int, image: CaptionRequest) -> BatchLine:
            try:
                async with turns, _in_time(self._config.limits.timeout_s):
                    answer = await self._captioned(None, image, f"{name}-{index}")
                return BatchLine(index=index, answer=answer)
            except Refusal as refusal:
                self._metrics.refused(refusal.code)
                return BatchLine(index=index, error=json.loads(refusal.body())["error"])

        tasks = [asyncio.create_task(line(n, image)) for n, image in enumerate(images)]
        try:
            for done in asyncio.as_completed(tasks):
                yield (await done).model_dump_json().encode() + b"\n"
        finally:
            for task in tasks:
                task.cancel()

    async def _captioned(
        self, data: bytes | None, body: CaptionOptions, name: str
    ) -> CaptionAnswer:
        asked = self._asked(body.model)
        model = asked.model
        prompt = body.prompt or model.config.prompt
        check_length(len(prompt), self._config.limits)
        async with asked.place():
            picture = await self._picture(data, body, model)
            request = Request(name, picture.sha256, picture.pixels, prompt)
            started = time.monotonic()
            end = await asked.caption(request)
        self._metrics.captioned(model.config.id, end.status, end.reason)
        if end.answer:
            answer = end.answer
            self._metrics.generated(model.config.id, answer.prompt_tokens, answer.output_tokens)
        generate_ms = 1000 * (time.monotonic() - started)
        return caption_answer(request, body, model, picture, end, generate_ms)

    async def _picture(self, data: bytes | None, body: CaptionOptions, model: Model) -> Picture:
        framing = model.facts.framing
        if isinstance(body, CaptionRequest):
            if body.url is not None:
                return await self._pictures.from_url(body.url, framing)
            data = read_base64(body.image or "")
        return await self._pictures.from_bytes(data or b"", framing)

    async def _completed(
        self, asked: Asked, request: Request, sampling: SamplingConfig
    ) -> Generation:
        answer = await asked.complete(request, sampling)
        self._metrics.generated(asked.model.config.id, answer.prompt_tokens, answer.output_tokens)
        return answer

    async def _streamed(
        self, shape: "ChatStream", asked: Asked, request: Request, sampling: SamplingConfig
    ) -> Response:
        """Waits for the first piece: what is refused before it has a status of its own."""
        pieces = asked.stream(request, sampling)
        first = await anext(pieces)
        return StreamingResponse(
            self._events(shape, asked.model.config.id, first, pieces), media_type=EVENTS
        )

    async def _events(
        self,
        shape: "ChatStream",
        model: str,
        first: str | Generation,
        rest: AsyncIterator[str | Generation],
    ) -> AsyncIterator[bytes]:
        yield shape.opening()
        try:
            async with _in_time(self._config.limits.timeout_s):
                yield shape.event(first)
                async for piece in rest:
                    yield shape.event(piece)
                    if isinstance(piece, Generation):
                        self._metrics.generated(model, piece.prompt_tokens, piece.output_tokens)
        except Refusal as refusal:
            yield b"data: " + refusal.body() + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _asked(self, model: str | None) -> Asked:
        if model is None:
            return next(iter(self._models.values()))
        if model not in self._models:
            raise Refusal(404, "model_not_found", "There is no such model.")
        return self._models[model]

    def _log_texts(self, http: HttpRequest, prompt: str, answer: str | None) -> None:
        if self._config.log_texts:
            log.info("%s", json.dumps({"id": request_id(http), "prompt": prompt, "text": answer}))


@asynccontextmanager
async def _in_time(limit_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise Refusal(504, "timeout", "The answer took too long.") from None


def _json(answer: ChatAnswer | CompletionAnswer) -> Response:
    return JSONResponse(answer.model_dump())
