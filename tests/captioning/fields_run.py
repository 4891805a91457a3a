"""Runs with fields, made by the task itself with engine fake, and without Ray."""

import asyncio
import json
from pathlib import Path
from typing import Any

from s4v_core.captioning.caption_pass import make_task
from s4v_core.captioning.checks import CheckedJob, check_job
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.choice import start_engine
from s4v_core.engines.requests import Generator
from s4v_core.flow.task import stamp_row
from s4v_core.images.policy import DecodeConfig
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.inputs.unique_ids import number_repeated_ids
from s4v_core.records.captions import caption_units, contract_of
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.planned_rows import read_planned_unit
from s4v_core.records.schemas import table_of

FACTS = {
    "type": "object",
    "properties": {
        "subject": {"type": "string"},
        "people": {"type": "integer", "minimum": 0, "maximum": 9},
        "is_photo": {"type": "boolean"},
        "colours": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "mood": {"enum": ["calm", "busy"]},
        "place": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
    "required": ["subject", "people", "is_photo", "colours", "mood"],
    "additionalProperties": False,
}

THREE: list[dict[str, Any]] = [
    {"name": "tags", "prompt_name": "tags", "append": " #end"},
    {"name": "facts", "prompt": "What are the facts?", "schema": FACTS},
    {"name": "long", "prompt": "These tags fit: {tags}. Describe it.", "prepend": "Photo. "},
]


def write_fields(folder: Path, fields: list[dict[str, Any]]) -> str:
    path = folder / "fields.json"
    path.write_text(json.dumps(fields))
    return str(path)


def build_job(images: Path, output: Path, **changes: Any) -> CaptionJob:
    return CaptionJob(
        input=(str(images),),
        output=str(output),
        model="none",
        engine="fake",
        decode=DecodeConfig(reduced_jpeg=False),
        **changes,
    )


def make_run(job: CaptionJob, unit_size: int = 3, engine: Generator | None = None) -> CheckedJob:
    """Plan a job's input and write every row of it.

    Args:
        engine: Answers in the place of engine fake.
    """
    checked = check_job(job)
    tables = [table_of(index_shard(one)[0], INDEX_SCHEMA, one.uri) for one in checked.shards]
    tables, _ = number_repeated_ids(tables)
    counts = [table.num_rows for table in tables]
    accounts = [{"uri": s.uri, "name": s.name, "kind": s.kind} for s in checked.shards]
    head = build_head(
        counts,
        accounts,
        checked.settings,
        checked.listing_digest,
        kind="captions",
        key="image_id",
        unit_size=unit_size,
    )
    head = write_plan(job.output, head, tables)
    units = caption_units(job.output, head.settings)
    for unit in head.units:
        planned = read_planned_unit(job.output, unit).to_pylist()
        rows = asyncio.run(_answer(checked, planned, engine))
        table = table_of(rows, contract_of(head.settings).schema, "made")
        units.commit(unit, head.digest, "run", table)
    return checked


async def _answer(
    checked: CheckedJob, planned: list[dict[str, Any]], given: Generator | None
) -> list[dict[str, Any]]:
    task, engine = make_task(checked), given or start_engine(checked.engine)
    found = [
        task.prepare(row, data) for row, data in zip(planned, read_images(planned), strict=True)
    ]
    rows = await asyncio.gather(*(task.answer(one.about, one.pictures, engine) for one in found))
    return [stamp_row(row, "run") for row in rows]
