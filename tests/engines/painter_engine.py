"""Opens engine diffusers on a pipeline, and lets it draw."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s4v_core.engines.choice import build_engine, choose_painter
from s4v_core.engines.drawing import PaintConfig
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings, EngineSpec
from tests.synthesis.tiny_painter import BATCH, PAINTING

SETTINGS = EngineSettings(device="cpu", cpus=1, batch_size=BATCH)


def choose(model: Path, painting: PaintConfig = PAINTING, **settings: Any) -> EngineSpec:
    return choose_painter(str(model), painting, SETTINGS.replace(**settings))


@contextmanager
def open_engine(spec: EngineSpec) -> Iterator[Any]:
    engine = build_engine(spec)
    yield engine
    engine.close()


def make_request(number: int, prompt: str | None = None) -> Request:
    prompt = f"small red circle, number {number % 3}" if prompt is None else prompt
    return Request(f"{number}", f"{number}\n{prompt}", (), prompt)


def draw(engine: Any, numbers: Sequence[int]) -> dict[int, bytes]:
    """PNGs of requests that are all made at once, by number."""

    async def draw_all() -> list[Generation]:
        waiting = [engine.generate(make_request(number), SamplingConfig()) for number in numbers]
        return list(await asyncio.gather(*waiting))

    answers = asyncio.run(draw_all())
    assert all(answer.drawing for answer in answers), answers
    return {n: a.drawing.png for n, a in zip(numbers, answers, strict=True) if a.drawing}


def ask(engine: Any, request: Request) -> Generation:
    answer: Generation = asyncio.run(engine.generate(request, SamplingConfig()))
    return answer
