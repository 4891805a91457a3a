"""Implements the routes: checks requests, decodes images, calls the replicas and answers."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from ray.serve.handle import DeploymentHandle

from s4v_core.engines.requests import Request
from s4v_core.environment import find_version
from serve.api.answer_forms import read_answer_schema
from serve.api.answers import (
    ChatStream,
    TextStream,
    build_chat_answer,
    build_completion_answer,
    read_request_id,
)
from serve.api.bodies import ChatRequest, CompletionRequest, TokenizeRequest
from serve.api.captions import Captioner
from serve.api.conversations import (
    Conversation,
    check_length,
    read_messages,
    refuse_many_images,
)
from serve.api.model_access import ModelAccess
from serve.api.pictures import PictureLoader
from serve.api.response_bodies import ResponsesRequest
from serve.api.responses import ResponseWriter, read_input, read_output_schema
from serve.api.sampling import read_sampling
from serve.api.schemas import BatchRequest, CaptionAnswer, ModelCard, ModelList, TokenList, Version
from serve.api.texts import TextGeneration, blame
from serve.engines.client import ReplicaClient
from serve.engines.models import Model
from serve.front.fetching import Fetcher
from serve.front.refusals import Refusal, make_overload_refusal
from serve.front.scraping import scrape_nodes
from serve.settings import ServeConfig

_NDJSON = "application/x-ndjson"


class Ingress(ModelAccess):
    """One replica of the ingress deployment."""

    def __init__(
        self, config: ServeConfig, models: tuple[Model, ...], *handles: DeploymentHandle
    ) -> None:
        super().__init__(config, models, handles)
        self._pictures = PictureLoader(config.decode, config.decoders, Fetcher(config.fetch))
        self._texts = TextGeneration(self)
        self._captioner = Captioner(self, self._pictures)

    async def healthz(self) -> Response:
        """Answer ok as long as the process runs."""
        return PlainTextResponse("ok")

    async def readyz(self) -> Response:
        """Answer ok when every model that is configured to run permanently has a running engine."""
        up = await asyncio.gather(*(client.is_up() for client in self._clients.values()))
        return PlainTextResponse("ok") if all(up) else PlainTextResponse("starting", 503)

    async def health(self) -> Response:
        """Answer as /healthz does, under the name that vLLM gives it."""
        return await self.healthz()

    async def version(self) -> Version:
        """Name the version of this software."""
        return Version(version=find_version("s4v") or "unknown")

    async def models(self) -> ModelList:
        """List all models."""
        clients = map(self.find_client, self.list_names())
        cards = await asyncio.gather(*map(_describe_model, clients))
        return ModelList(data=list(cards))

    async def prometheus(self) -> Response:
        """Show the metrics of all nodes in Prometheus' text format."""
        return PlainTextResponse(await scrape_nodes())

    async def model(self, model: str) -> ModelCard:
        """Describe one model."""
        return await _describe_model(self.find_client(model))

    async def chat(self, body: ChatRequest, http: HttpRequest) -> Response:
        """Answer the last message of a conversation, which may contain images."""
        client = self.find_client(body.model)
        conversation = read_messages(body.messages, self.limits)
        tokens = {
            "max_completion_tokens": body.max_completion_tokens,
            "max_tokens": body.max_tokens,
        }
        sampling = read_sampling(body, tokens, client.model.config.sampling, self.limits)
        schema = read_answer_schema(body.response_format, client.model.spec.name, "response_format")
        async with self.limit_time(client), client.reserve_slot():
            request = await self._build_request(conversation, client.model, http, schema)
            with blame("messages"):
                if body.stream:
                    writer = ChatStream(body, http)
                    return await self._texts.start_stream(writer, client, request, sampling)
                answer = await self._texts.complete(client, request, sampling)
        return JSONResponse(build_chat_answer(body, http, answer).model_dump())

    async def responses(self, body: ResponsesRequest, http: HttpRequest) -> Response:
        """Answer the last message of a conversation in OpenAI's newer form."""
        client = self.find_client(body.model)
        conversation = read_input(body, self.limits)
        tokens = {"max_output_tokens": body.max_output_tokens}
        sampling = read_sampling(body, tokens, client.model.config.sampling, self.limits)
        schema = read_output_schema(body, client.model.spec.name)
        writer = ResponseWriter(body, http, sampling)
        async with self.limit_time(client), client.reserve_slot():
            request = await self._build_request(conversation, client.model, http, schema)
            with blame("input"):
                if body.stream:
                    return await self._texts.start_stream(writer, client, request, sampling)
                answer = await self._texts.complete(client, request, sampling)
        return JSONResponse(writer.build_whole(answer))

    async def completions(self, body: CompletionRequest, http: HttpRequest) -> Response:
        """Continue a text, or each of several texts."""
        client = self.find_client(body.model)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        check_length(sum(map(len, prompts)), self.limits, "prompt")
        tokens = {"max_tokens": body.max_tokens}
        sampling = read_sampling(body, tokens, client.model.config.sampling, self.limits)
        schema = read_answer_schema(body.response_format, client.model.spec.name, "response_format")
        name = read_request_id(http)
        requests = [
            Request(f"{name}-{n}" if n else name, "", (), text, is_raw=True, answer_schema=schema)
            for n, text in enumerate(prompts)
        ]
        async with self.limit_time(client), client.reserve_slot():
            with blame("prompt"):
                if body.stream:
                    _refuse_many_streams(requests)
                    writer = TextStream(body, http)
                    return await self._texts.start_stream(writer, client, requests[0], sampling)
                # One after the other: a request takes one place, whatever it asks for.
                answers = [
                    await self._texts.complete(client, request, sampling) for request in requests
                ]
        return JSONResponse(build_completion_answer(body, http, answers).model_dump())

    async def tokenize(self, body: TokenizeRequest, http: HttpRequest) -> TokenList:
        """Tokenize a text, or messages with the model's template."""
        client = self.find_client(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise Refusal(400, "no_text", "Send one of `prompt` and `messages`.", param="prompt")
        name = read_request_id(http)
        text = body.prompt or ""
        check_length(len(text), self.limits, "prompt")
        request = Request(name, "", (), text, is_raw=True)
        async with self.limit_time(client), client.reserve_slot():
            if body.messages is not None:
                conversation = read_messages(body.messages, self.limits)
                request = await self._build_request(conversation, client.model, http, None)
            ids = await client.tokenize(request)
        longest = await client.find_max_model_len()
        return TokenList(count=len(ids), max_model_len=longest, tokens=ids)

    async def caption(self, http: HttpRequest) -> CaptionAnswer:
        """Caption one image as a batch pass does: with the same decoding, gate and retries."""
        if all(client.is_full() for client in self._clients.values()):
            raise make_overload_refusal()  # before the body is read, which would take longest
        return await self._captioner.caption(http)

    async def captions(self, body: BatchRequest, http: HttpRequest) -> Response:
        """Caption several images. The answer has one line of NDJSON for each, in the order in which
        they are finished."""
        return StreamingResponse(self._captioner.write_lines(body, http), media_type=_NDJSON)

    async def _build_request(
        self, conversation: Conversation, model: Model, http: HttpRequest, schema: str | None
    ) -> Request:
        refuse_many_images(conversation, model.spec.images_per_request)
        request = Request(
            key=read_request_id(http),
            content=conversation.digest,
            images=(),
            prompt=conversation.question,
            earlier=conversation.earlier,
            system=conversation.system,
            answer_schema=schema,
        )
        for image in conversation.images:
            with blame(image.place):
                picture = await self._pictures.load_from_url(image.url, model.facts.framing)
            request = replace(
                request,
                content=request.content + picture.sha256,
                images=(*request.images, picture.pixels),
                image_names=(*request.image_names, picture.sha256),
                image_turns=(*request.image_turns, image.turn),
            )
        return request


async def _describe_model(client: ReplicaClient) -> ModelCard:
    return ModelCard(id=client.model.config.id, max_model_len=await client.find_max_model_len())


def _refuse_many_streams(requests: Sequence[Request]) -> None:
    if len(requests) > 1:
        message = f"prompt: found {len(requests)} texts, allowed 1 with stream; send one each time."
        raise Refusal(400, "too_many_prompts", message, param="prompt")
