"""A replica of ray.serve.llm that runs the engine of the batch pass: supervised, replaced when it
dies, and fed with token ids, so that no text of a user can forge a turn or an image."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from s4v_core.engines.choice import start_engine
from s4v_core.engines.ladder import Ending, Judge, climb_ladder
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import ConfigError, EngineError
from serve.engines.models import Model
from serve.front.metrics import build_engine_starts_gauge


class CaptionServer(LLMServer):  # type: ignore[misc]
    """A replica on one accelerator. The ingress calls `caption`, `complete` and `stream`."""

    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, model: Model
    ) -> None:
        await super().__init__(llm_config, engine_cls=partial(_ReplicaEngine, model))

    async def caption(
        self, request: Request, samplings: Sequence[SamplingConfig], gate: Judge
    ) -> Ending:
        """Caption an image, with gate and retries, as a batch pass does."""
        return await climb_ladder(self.engine.running, request, samplings, gate)

    async def complete(self, request: Request, sampling: SamplingConfig) -> Generation:
        """Generate one whole answer."""
        answer: Generation = await self.engine.running.generate(request, sampling)
        return answer

    async def tokenize(self, request: Request) -> list[int] | str:
        """Tokenize a request's prompt. A text says why the template refuses it."""
        try:
            ids: list[int] = await self.engine.running.current.tokenize(request)
        except ConfigError as error:
            return str(error)
        return ids

    async def read_max_model_len(self) -> int | None:
        """Read the most tokens of a prompt and its answer together."""
        found: int | None = self.engine.running.current.max_model_len
        return found

    async def stream(
        self, request: Request, sampling: SamplingConfig
    ) -> AsyncIterator[str | Generation]:
        """Generate one answer in pieces of text, followed by the whole answer. Closing the iterator
        cancels the generation."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        task = asyncio.create_task(
            self.engine.running.generate(request, sampling, pieces.put_nowait)
        )
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        sent = ""
        try:
            while (piece := await _take_all(pieces)) is not None:
                piece = piece if sent else piece.lstrip()
                sent += piece
                if piece:
                    yield piece
            answer: Generation = task.result()
            # If the engine died in between, another one gave the answer, and its pieces may be
            # missing here.
            if answer.text and answer.text != sent and answer.text.startswith(sent):
                yield answer.text[len(sent) :]
            yield answer
        finally:
            task.cancel()


async def _take_all(pieces: "asyncio.Queue[str | None]") -> str | None:
    """Take all pieces that are in the queue and join them, because a message between processes
    costs more than a token. None at the end."""
    joined = await pieces.get()
    while joined is not None and not pieces.empty():
        more = pieces.get_nowait()
        if more is None:
            pieces.put_nowait(None)
            break
        joined += more
    return joined


class _ReplicaEngine:
    """The part of an engine that LLMServer manages: start, health and shutdown. CaptionServer calls
    the engine itself for everything that is generated."""

    def __init__(self, model: Model, _: LLMConfig) -> None:
        self._model = model
        self.running: Any = None
        self._starts = build_engine_starts_gauge()

    async def start(self) -> None:
        self.running = await asyncio.to_thread(start_engine, self._model.spec)

    async def check_health(self) -> None:
        if self.running:
            self._starts.set(self.running.starts, {"model": self._model.config.id})
        if self.running and self.running.failure:
            raise EngineError(self._model.config.id, f"gave up: {self.running.failure}")

    def routing_stats(self) -> dict[str, Any]:
        return {}

    async def shutdown(self) -> None:
        if self.running:
            self.running.close()
