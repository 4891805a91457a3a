"""Writes a run over real inputs without an engine: every caption names its image's id."""

import hashlib
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.inputs.unique_ids import number_repeated_ids
from s4v_core.records import plan
from s4v_core.records.captions import RESULT_SCHEMA, caption_units
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.planned_rows import read_planned_unit
from s4v_core.records.schemas import table_of

AT = datetime(2026, 11, 21, tzinfo=UTC)


def caption_inputs(
    output: Path | str,
    *inputs: Path | str,
    rejected: tuple[str, ...] = (),
    unit_size: int = 4,
    units: int | None = None,
    more: tuple[str, ...] = (),
    mark: str = "",
) -> plan.PlanHead:
    """Plan the inputs and write the rows of the first `units` units.

    Args:
        rejected: Ids that get no caption.
        more: Further captions of every image.
        mark: Text in every caption, which makes this run another one.
    """
    shards = find_shards([str(one) for one in inputs])
    tables = [table_of(index_shard(shard)[0], INDEX_SCHEMA, shard.uri) for shard in shards]
    tables, renamed = number_repeated_ids(tables)
    head = build_head(
        [table.num_rows for table in tables],
        [{"uri": s.uri, "name": s.name, "kind": s.kind} for s in shards],
        {"model": "none"},
        f"listing {mark}",
        kind="captions",
        key="image_id",
        unit_size=unit_size,
        renamed=renamed,
    )
    head = write_plan(str(output), head, tables)
    for unit in head.units[:units]:
        rows = read_planned_unit(str(output), unit).to_pylist()
        made = [
            _build_row(row, data, row["image_id"] in rejected, more, mark)
            for row, data in zip(rows, read_images(rows), strict=True)
        ]
        table = table_of(made, RESULT_SCHEMA, "made")
        caption_units(str(output)).commit(unit, head.digest, "run", table)
    return head


def _build_row(
    planned: dict[str, Any],
    data: bytes | str,
    is_rejected: bool,
    more: tuple[str, ...],
    mark: str,
) -> dict[str, Any]:
    assert isinstance(data, bytes)
    image = Image.open(io.BytesIO(data))
    return dict.fromkeys(RESULT_SCHEMA.names) | {
        "image_id": planned["image_id"],
        "uri": planned["uri"],
        "source": planned["source"],
        "caption": f"{mark}A picture,\nnamed {planned['image_id']}.",
        "more_captions": list(more) or None,
        "status": "rejected" if is_rejected else "ok",
        "reason": "looping" if is_rejected else None,
        "attempts": 1,
        "output_tokens": 7,
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "image_format": image.format,
        "width": image.width,
        "height": image.height,
        "prompt": "What is it?",
        "model": "none",
        "model_revision": "1",
        "engine": "fake",
        "sampling": "{}",
        "run_id": "run",
        "created_at": AT,
    }
