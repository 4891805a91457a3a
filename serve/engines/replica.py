"""A replica of ray.serve.llm whose engine is the batch pass's own: supervised, replaced when it
dies, fed with token ids so that no text of a user's can forge a turn or an image."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from s4v_core.captioning.ladder import Ending, attempted
from s4v_core.engines.choice import build_engine
from s4v_core.engines.requests import Generation, Judge, Request, SamplingConfig
from s4v_core.engines.supervision import SupervisedEngine
from s4v_core.errors import EngineError
from serve.engines.models import Model
from serve.front.metrics import engine_starts_gauge


class CaptionServer(LLMServer):  # type: ignore[misc]
    """One per accelerator. What the ingress calls are `caption`, `complete` and `stream`."""

    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, model: Model
    ) -> None:
        await super().__init__(llm_config, engine_cls=partial(_ReplicaEngine, model))

    async def caption(
        self, request: Request, samplings: Sequence[SamplingConfig], gate: Judge
    ) -> Ending:
        """A caption that passes the gate, as in a batch pass."""
        return await attempted(self.engine.running, request, samplings, gate)

    async def complete(self, request: Request, sampling: SamplingConfig) -> Generation:
        """One answer, whole."""
        answer: Generation = await self.engine.running.generate(request, sampling)
        return answer

    async def stream(
        self, request: Request, sampling: SamplingConfig
    ) -> AsyncIterator[str | Generation]:
        """Pieces of the answer as they come, then the answer; stopping to listen ends it."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        task = asyncio.create_task(
            self.engine.running.generate(request, sampling, pieces.put_nowait)
        )
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        told = ""
        try:
            while (piece := await _gathered(pieces)) is not None:
                piece = piece if told else piece.lstrip()
                told += piece
                if piece:
                    yield piece
            answer: Generation = task.result()
            # Where an engine died in between, another one gave the answer.
            if answer.text and answer.text != told and answer.text.startswith(told):
                yield answer.text[len(told) :]
            yield answer
        finally:
            task.cancel()


async def _gathered(pieces: "asyncio.Queue[str | None]") -> str | None:
    """All pieces that are there, as one: a message between processes costs more than a token."""
    found = await pieces.get()
    while found is not None and not pieces.empty():
        more = pieces.get_nowait()
        if more is None:
            pieces.put_nowait(None)
            break
        found += more
    return found


class _ReplicaEngine:
    """What LLMServer asks of an engine's life; what it generates goes past LLMServer."""

    def __init__(self, model: Model, _: LLMConfig) -> None:
        self._model = model
        self.running: Any = None
        self._starts = engine_starts_gauge()

    async def start(self) -> None:
        settings = self._model.spec.settings
        build = partial(build_engine, self._model.spec)
        self.running = await asyncio.to_thread(
            SupervisedEngine, build, settings.silence_limit_s, settings.max_engine_starts
        )

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
