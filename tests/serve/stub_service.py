"""The application in this process, without Ray: the real app, guard and ingress in front of engine
fake, whose replicas are stubs that can be slow to start."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from s4v_core.engines.fake import FakeEngine
from s4v_core.engines.ladder import climb_ladder
from serve.api.ingress import Ingress
from serve.api.routes import ROUTES, make_app
from serve.app import check_args
from serve.engines.models import Model
from serve.keys import make_key
from tests.serve.handle_answers import HandleMethod
from tests.serve.service import FAKE

MODEL = FAKE["id"]


class StubHandle:
    """Stands in for the handle of a deployment.

    Attributes:
        is_up: Set while an engine runs; requests wait for it.
        requests: Every request that arrived.
    """

    def __init__(self, model: Model) -> None:
        self._engine = FakeEngine(model.spec)
        self.is_up = asyncio.Event()
        self.is_up.set()
        self.requests: list[Any] = []

    def options(self, **_: Any) -> "StubHandle":
        return self

    def __getattr__(self, name: str) -> Any:
        return HandleMethod(object.__getattribute__(self, f"_{name}"))

    async def _read_max_model_len(self) -> int:
        await self.is_up.wait()
        return 2048

    async def _check_health(self) -> None:
        await self.is_up.wait()

    async def _complete(self, request: Any, sampling: Any) -> Any:
        self.requests.append(request)
        await self.is_up.wait()
        return await self._engine.generate(request, sampling)

    async def _caption(self, request: Any, samplings: Any, gate: Any) -> Any:
        self.requests.append(request)
        await self.is_up.wait()
        return await climb_ladder(self._engine, request, samplings, gate)

    async def _stream(self, request: Any, sampling: Any) -> AsyncIterator[Any]:
        answer = await self._complete(request, sampling)
        for word in answer.text.split(" "):
            yield word
        yield answer


class Stub:
    """One ingress replica.

    Attributes:
        secrets: Secret of each key by its name.
    """

    def __init__(self, folder: Path, *keys: str, **settings: Any) -> None:
        """Args:
        keys: Lines of the keys file without the digest; the first word is the name.
        """
        self.secrets: dict[str, str] = {}
        self.keys = folder / "keys"
        self.keys.write_text("".join(map(self.make_line, keys or ("alice",))))
        guard = {"keys_file": str(self.keys)} | settings.pop("guard", {})
        args = {"models": [FAKE], "log_folder": str(folder / "logs")} | settings
        config, models, keyring = check_args(args | {"guard": guard})
        self.logs = folder / "logs"
        self.handles = [StubHandle(model) for model in models]
        self.app = make_app(config, keyring)
        self.ingress = Ingress(config, models, *self.handles)  # type: ignore[arg-type]
        self.ingress.app = self.app
        for name, make_route in ROUTES.items():
            make_route(self.app)(getattr(self.ingress, name))

    def make_line(self, words: str) -> str:
        """Make a line of the keys file, with a new secret."""
        name, _, more = words.partition(" ")
        self.secrets[name], line = make_key(name)
        return f"{line} {more}\n"

    def client(self, key: str | None = "alice", **more: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.secrets[key]}"} if key else {}
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(
            transport=transport, base_url="http://stub", headers=headers, timeout=60, **more
        )


def ask(text: str = "What is it?", **more: Any) -> dict[str, Any]:
    """Build the body of a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]} | more
