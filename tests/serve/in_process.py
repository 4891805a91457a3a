"""The whole HTTP interface in this process: guard, routes and ingress, with engine fake in place of
the replicas, and without Ray."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai

from s4v_core.engines.fake import FakeEngine
from s4v_core.engines.ladder import climb_ladder
from s4v_core.engines.requests import Generation, Request
from serve.api.ingress import Ingress
from serve.api.routes import ROUTES, make_app
from serve.engines.models import check_models
from serve.keys import Key, Keyring
from serve.settings import ServeConfig
from tests.serve.handle_answers import HandleMethod

SECRET, MODEL = "s4v-right", "share-captioner"


class FakeReplica:
    """A deployment handle whose only replica is an engine in this process.

    Attributes:
        asked: Every request with its sampling, in order.
        answer: Given in place of the engine's own answer, if it is set.
    """

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.asked: list[tuple[Request, Any]] = []
        self.answer: Generation | None = None

    def options(self, **_: Any) -> "FakeReplica":
        return self

    def __getattr__(self, name: str) -> Any:
        return HandleMethod(object.__getattribute__(self, f"_{name}"))

    async def _complete(self, request: Request, sampling: Any) -> Generation:
        self.asked.append((request, sampling))
        return self.answer or await self._engine.generate(request, sampling)

    async def _stream(self, request: Request, sampling: Any) -> AsyncIterator[str | Generation]:
        self.asked.append((request, sampling))
        pieces: list[str] = []
        answer = self.answer or await self._engine.generate(request, sampling, pieces.append)
        for piece in pieces:
            yield piece
        yield answer

    async def _caption(self, request: Request, samplings: Any, gate: Any) -> Any:
        self.asked.append((request, samplings[0]))
        return await climb_ladder(self._engine, request, samplings, gate)

    async def _tokenize(self, request: Request) -> list[int]:
        return await self._engine.tokenize(request)

    async def _read_max_model_len(self) -> int | None:
        return self._engine.max_model_len

    async def _check_health(self) -> None:
        pass


class House:
    """An application with one fake model, and a client for it."""

    def __init__(self, model: dict[str, Any] | None = None, **settings: Any) -> None:
        named = {"id": MODEL, "path": "none", "engine": "fake"} | (model or {})
        config = ServeConfig.model_validate({"models": [named]} | settings)
        models = check_models(config.models)
        self.replica = FakeReplica(FakeEngine(models[0].spec))
        key = Key("tests", hashlib.sha256(SECRET.encode()).digest())
        self.app = make_app(config, Keyring((key,)))
        ingress = Ingress(config, models, self.replica)  # type: ignore[arg-type]
        for name, route in ROUTES.items():
            route(self.app)(getattr(ingress, name))

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send one request, with a key unless the headers are given."""
        headers = more.pop("headers", {"authorization": f"Bearer {SECRET}"})

        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(run())

    def openai(self) -> openai.AsyncOpenAI:
        """The openai client, connected to the application without a socket."""
        web = httpx.AsyncClient(transport=httpx.ASGITransport(self.app))
        url = "http://here/v1"
        return openai.AsyncOpenAI(base_url=url, api_key=SECRET, max_retries=0, http_client=web)

    def post(self, path: str, body: Any) -> httpx.Response:
        """Post a body as JSON; texts with half a surrogate pair are escaped, as clients do."""
        headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
        return self.send("POST", path, content=json.dumps(body), headers=headers)

    def chat(self, messages: Any = None, **fields: Any) -> httpx.Response:
        """Post a chat request, whose messages are one greeting unless others are given."""
        messages = [{"role": "user", "content": "Hi"}] if messages is None else messages
        return self.post("/v1/chat/completions", {"model": MODEL, "messages": messages} | fields)

    def said(self, answer: httpx.Response) -> str:
        """The text of a whole chat answer."""
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of an error."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]
