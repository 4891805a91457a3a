"""Answers of this project's engines, with the prompt's ids as vLLM itself reports them.

The tests call it in a process of its own, which answers for many checkpoints one after the other.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s4v_core.engines.choice import build_engine, choose_engine
from s4v_core.engines.requests import Engine, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import S4VError
from s4v_core.model.checkpoint_facts import read_facts
from tests.architectures.reference import MAX_TOKENS, Inquiry

GREEDY = SamplingConfig(max_tokens=MAX_TOKENS, stop_at_loops=False)


@dataclass
class Overheard:
    """The last answer that vLLM gave to this process, before this project's code saw it."""

    prompt_ids: list[int] | None = None
    answer_ids: list[int] | None = None


def overhear_vllm() -> Overheard:
    """Note what every vLLM engine of this process answers; the engines notice nothing."""
    from vllm.v1.engine.async_llm import AsyncLLM

    heard, generate = Overheard(), AsyncLLM.generate

    async def note(self: Any, *args: Any, **more: Any) -> AsyncIterator[Any]:
        async for output in generate(self, *args, **more):
            heard.prompt_ids = list(output.prompt_token_ids or ())
            heard.answer_ids = list(output.outputs[0].token_ids)
            yield output

    AsyncLLM.generate = note
    return heard


def answer_all(engine_name: str, inquiries: list[Inquiry]) -> None:
    """Write the answers of each inquiry whose target does not exist yet.

    The target holds "pictures" and "text", as that of the reference does; each has the fields of
    the Generation and what was overheard. "error" holds the sentence of an engine that does not
    start.
    """
    heard = overhear_vllm() if engine_name == "vllm" else Overheard()
    for inquiry in inquiries:
        target = Path(inquiry.target)
        if target.exists():
            continue
        try:
            found = asyncio.run(_answer(engine_name, inquiry, heard))
        except S4VError as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.rename(target)


async def _answer(engine_name: str, inquiry: Inquiry, heard: Overheard) -> dict[str, Any]:
    facts = read_facts(inquiry.checkpoint)
    settings = EngineSettings(max_num_seqs=4)
    spec = choose_engine(
        engine_name,  # type: ignore[arg-type]
        inquiry.checkpoint,
        facts.template,
        settings,
    )
    engine = build_engine(spec)
    try:
        pictures = {
            path.stem: await _ask(engine, inquiry.question, (_open(path),), heard)
            for path in sorted(Path(inquiry.pictures).glob("*.png"))
        }
        return {"pictures": pictures, "text": await _ask(engine, inquiry.question, (), heard)}
    finally:
        engine.close()


async def _ask(engine: Engine, question: str, images: tuple[Any, ...], heard: Overheard) -> Any:
    heard.prompt_ids = heard.answer_ids = None
    try:
        found = asdict(await engine.generate(Request("row", "row", images, question), GREEDY))
    except S4VError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return found | asdict(heard)


def _open(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    answer_all(sys.argv[1], [Inquiry(**f) for f in json.loads(Path(sys.argv[2]).read_text())])
