"""Fields on vLLM: answers are those of separate passes, begin as asked, and follow schemas."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from s4v_core.captioning.caption_pass import make_task
from s4v_core.captioning.checks import CheckedModel, check_model
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.job import CaptionJob
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.choice import start_engine
from s4v_core.engines.requests import Generator
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from tests.captioning.fields_run import write_fields
from tests.conftest import photo

pytestmark = pytest.mark.slow

IMAGES = 4
SCHEMA = {
    "type": "object",
    "properties": {
        "subject": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["photo", "drawing"]},
    },
    "required": ["subject", "count", "kind"],
    "additionalProperties": False,
}
FREE = {"enabled": False}
FIELDS: list[dict[str, Any]] = [
    {"name": "long", "prompt": "Describe the image in detail.", "gate": FREE},
    {"name": "begun", "prompt": "Describe it.", "prefill": "There is", "gate": FREE},
    {"name": "facts", "prompt": "What are the facts?", "schema": SCHEMA},
    {"name": "after", "prompt": "Shorten this: {long}", "gate": FREE},
]


def _job(**changes: Any) -> CaptionJob:
    return CaptionJob(
        input=("memory",),
        output="memory",
        model=str(CAPTIONER),
        engine="vllm",
        sampling=SamplingConfig(max_tokens=48),
        settings=EngineSettings(max_num_seqs=16),
        **changes,
    )


def _caption(*passes: CheckedModel) -> list[list[dict[str, Any]]]:
    """The rows of passes, one after the other on the engine of the first."""

    async def caption_all() -> list[list[dict[str, Any]]]:
        engine = start_engine(passes[0].engine)
        try:
            return [await _caption_on(engine, checked) for checked in passes]
        finally:
            engine.close()

    return asyncio.run(caption_all())


async def _caption_on(engine: Generator, checked: CheckedModel) -> list[dict[str, Any]]:
    task = make_task(checked)
    planned = {"uri": "", "source": "s", "payload": None}
    prepared = [task.prepare(planned | {"image_id": f"{n}"}, photo(n)) for n in range(IMAGES)]
    rows = (task.answer(one.about, one.pictures, engine) for one in prepared)
    return list(await asyncio.gather(*rows))


@pytest.mark.timeout(600)
def test_fields_are_what_separate_passes_give(tmp_path: Path) -> None:
    [together] = _caption(check_model(_job(fields=write_fields(tmp_path, FIELDS))))
    assert {row["status"] for row in together} == {"ok"}, [row["reason"] for row in together]
    for row in together:
        jsonschema.validate(json.loads(row["facts"]), SCHEMA)
        assert row["facts_values"]["kind"] in ("photo", "drawing")
        assert row["begun"].startswith("There is ")
        prompt = json.loads(row["fields"])["after"]["prompt"]
        assert prompt == f"Shorten this: {' '.join(row['long'].split())}"
    long = _job(prompt="Describe the image in detail.", gate=Gate(enabled=False))
    begun = long.replace(prompt="Describe it.", prefill="There is")
    separate = _caption(check_model(long), check_model(begun))
    for name, rows in zip(("long", "begun"), separate, strict=True):
        assert [row[name] for row in together] == [row["caption"] for row in rows]
