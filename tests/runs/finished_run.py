"""Writes a finished run without engines: every third caption is long, some rows are rejected."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.records import plan
from s4v_core.records.captions import RESULT_SCHEMA, caption_units
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.schemas import table_of
from tests.conftest import photo, write_tar

EVIL = "<script>document.title='evil'</script><img src=x onerror=alert(1)> & \"quotes\""


def write_run(output: Path, folder: Path, images: int) -> plan.PlanHead:
    members = {f"{n:04d}.jpg": photo(n, (64, 48)) for n in range(min(images, 40))}
    write_tar(folder / "shards" / "0.tar", members)
    [shard] = find_shards([str(folder / "shards" / "0.tar")])
    one = index_shard(shard)[0]
    rows = [one[n % len(one)] | {"image_id": f"0/{n:06d}"} for n in range(images)]
    table = table_of(rows, INDEX_SCHEMA, "rows")
    head = build_head([images], [], {"model": "none"}, "listing", kind="captions", key="image_id")
    head = write_plan(str(output), head, [table])
    started = datetime(2026, 11, 21, tzinfo=UTC)
    for unit, count in enumerate(head.unit_rows):
        first = unit * 256
        made = [
            _build_row(n, started + timedelta(seconds=30 * unit))
            for n in range(first, first + count)
        ]
        rows_table = table_of(made, RESULT_SCHEMA, "made")
        caption_units(str(output)).commit(unit, head.digest, "run", rows_table)
    return head


def _build_row(number: int, at: datetime) -> dict:
    status = "rejected" if number % 50 == 7 else "error" if number % 50 == 9 else "ok"
    words = 200 if number % 3 == 0 else 20 + number % 50
    return dict.fromkeys(RESULT_SCHEMA.names) | {
        "image_id": f"0/{number:06d}",
        "uri": "0.tar",
        "source": ("coco", "sam", "lcs")[number % 3],
        "caption": None if status == "error" else f"{number} {EVIL} word" + " word" * (words - 10),
        "status": status,
        "reason": {"rejected": "looping", "error": "not_an_image"}.get(status),
        "attempts": 4 if status == "rejected" else 1,
        "output_tokens": words,
        "image_sha256": "0" * 64,
        "prompt": "What is it?",
        "model": "none",
        "model_revision": "1",
        "engine": "fake",
        "sampling": "{}",
        "run_id": "run",
        "created_at": at,
    }
