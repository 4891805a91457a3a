"""Answers of this project's engines, with the prompt's ids as vLLM itself reports them.

The tests call it in a process of its own, which answers for many checkpoints one after the other.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s4v_core.captioning.checks import CheckedModel, check_model
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.choice import build_engine
from s4v_core.engines.requests import Engine, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import S4VError
from tests.architectures.reference import MAX_TOKENS, QUESTION, Inquiry

GREEDY = SamplingConfig(max_tokens=MAX_TOKENS, stop_at_loops=False)


def check_checkpoint(checkpoint: str, engine_name: str) -> CheckedModel:
    """The facts that a pass finds out about a checkpoint from the model's name alone: engine,
    pictures, lengths.

    Raises:
        ConfigError: The checkpoint cannot be used.
    """
    job = CaptionJob(
        input=("images",),
        output="captions",
        model=checkpoint,
        engine=engine_name,  # type: ignore[arg-type]
        prompt=QUESTION,
        sampling=GREEDY,
        settings=EngineSettings(max_num_seqs=12),
    )
    return check_model(job)


@dataclass
class Overheard:
    """The answer of vLLM to one request, before this project's code saw it."""

    prompt_ids: list[int] | None = None
    answer_ids: list[int] | None = None


_HEARD: ContextVar[Overheard] = ContextVar("_HEARD")
"""Each request is a task with a context of its own."""


def overhear_vllm() -> None:
    """Note what every vLLM engine of this process answers; the engines notice nothing."""
    from vllm.v1.engine.async_llm import AsyncLLM

    generate = AsyncLLM.generate

    async def note(self: Any, *args: Any, **more: Any) -> AsyncIterator[Any]:
        heard = _HEARD.get()
        async for output in generate(self, *args, **more):
            heard.prompt_ids = list(output.prompt_token_ids or ())
            heard.answer_ids = list(output.outputs[0].token_ids)
            yield output

    AsyncLLM.generate = note


def answer_all(engine_name: str, inquiries: list[Inquiry]) -> None:
    """Write the answers of each inquiry whose target does not exist yet.

    The target holds "pictures" and "text", as that of the reference does; each has the fields of
    the Generation and what was overheard. "error" holds the sentence of an engine that does not
    start.
    """
    if engine_name == "vllm":
        overhear_vllm()
    for inquiry in inquiries:
        target = Path(inquiry.target)
        if target.exists():
            continue
        try:
            found = asyncio.run(_answer(engine_name, inquiry))
        except S4VError as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.rename(target)


async def _answer(engine_name: str, inquiry: Inquiry) -> dict[str, Any]:
    engine = build_engine(check_checkpoint(inquiry.checkpoint, engine_name).engine)
    try:
        paths = sorted(Path(inquiry.pictures).glob("*.png"))
        asked = (_ask(engine, inquiry.question, (_open(path),)) for path in paths)
        answers = await asyncio.gather(*asked)
        found = {path.stem: answer for path, answer in zip(paths, answers, strict=True)}
        return {"pictures": found, "text": await _ask(engine, inquiry.question, ())}
    finally:
        engine.close()


async def _ask(engine: Engine, question: str, images: tuple[Any, ...]) -> dict[str, Any]:
    heard = Overheard()
    _HEARD.set(heard)
    try:
        found = await engine.generate(Request("row", "row", images, question), GREEDY)
    except S4VError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return asdict(found) | asdict(heard)


def _open(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    answer_all(sys.argv[1], [Inquiry(**f) for f in json.loads(Path(sys.argv[2]).read_text())])
