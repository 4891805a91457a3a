"""A run's captions in the formats that others read, in the order of the plan.

Byte for byte the same every time. Holds one unit at a time.
"""

import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import chat, storage
from s4v_core.errors import ConfigError
from s4v_core.inputs.tar import add_member
from s4v_core.records.captions import RESULT_SCHEMA, caption_units
from s4v_core.records.plan import PlanHead, require_plan_head

_Writer = Callable[[Iterator[pa.Table], BinaryIO], int]


def export_run(output: str, to: str) -> int:
    """Write the captions of a run; the ending of `to` says the format.

    `.json`: ShareGPT4V JSON (ok rows). `.jsonl`, `.parquet`: all rows with all columns.
    `.tar`: WebDataset sidecars of the ok rows, `<image_id>.txt` and `<image_id>.json`.
    `/`: a folder with one tar of sidecars for each tar of the input, with the same name and the
    same keys in the same order, so that both can be read side by side; an image without a caption
    has only its `.json`.

    Returns:
        Rows written.

    Raises:
        ConfigError: The ending is none of these, or a folder of sidecars is wanted and the input
            was not tars.
        InputError: `output` holds no run.
    """
    head, units = require_plan_head(output), caption_units(output)
    done = units.list_done()
    tables = (units.read(unit) for unit in head.units if unit in done)
    if to.endswith("/"):
        return _export_by_shard(head, tables, to)
    ending = next((e for e in _WRITERS if to.endswith(e)), None)
    if ending is None:
        raise ConfigError(f"to: found {to!r}, allowed names ending in {', '.join(_WRITERS)}, /")
    return _upload(_WRITERS[ending], tables, to)


def _upload(write: _Writer, tables: Iterator[pa.Table], to: str) -> int:
    with tempfile.TemporaryFile() as file:
        count = write(tables, file)
        file.seek(0)
        storage.upload(file, to)
    return count


def _export_by_shard(head: PlanHead, tables: Iterator[pa.Table], folder: str) -> int:
    names = {s["uri"]: s["name"] for s in head.inputs if s["kind"] in ("tar", "targz")}
    if other := next((s["uri"] for s in head.inputs if s["uri"] not in names), None):
        raise ConfigError(f"to: found a folder, but {other} is no tar; name a file.tar instead")
    count = 0
    for uri, units_of_shard in groupby(tables, key=lambda table: table["uri"][0].as_py()):
        name = names[uri]
        write = partial(_write_shard_sidecars, name)
        count += _upload(write, units_of_shard, storage.join(folder, f"{name}.tar"))
    return count


def _write_sharegpt4v(tables: Iterator[pa.Table], sink: BinaryIO) -> int:
    """A JSON array with one record per line: it can be streamed, and compared line by line."""
    count = 0
    for row in _ok_rows(tables):
        sink.write(b"[\n" if count == 0 else b",\n")
        sink.write(json.dumps(_build_record(row), ensure_ascii=False).encode())
        count += 1
    sink.write(b"\n]\n" if count else b"[]\n")
    return count


def _build_record(row: dict[str, Any]) -> dict[str, Any]:
    """A result row in the schema of the released files (ShareGPT4V-PT)."""
    return {
        "id": PurePosixPath(row["image_id"]).stem,
        "image": row["image_id"],
        "conversations": [
            {"from": "human", "value": f"{chat.IMAGE}\n{row['prompt']}"},
            {"from": "gpt", "value": row["caption"]},
        ],
    }


def _write_jsonl(tables: Iterator[pa.Table], sink: BinaryIO) -> int:
    count = 0
    for table in tables:
        for row in table.to_pylist():
            row["created_at"] = row["created_at"].isoformat()
            sink.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def _write_parquet(tables: Iterator[pa.Table], sink: BinaryIO) -> int:
    count = 0
    with pq.ParquetWriter(sink, RESULT_SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            count += table.num_rows
    return count


def _write_sidecars(tables: Iterator[pa.Table], sink: BinaryIO) -> int:
    columns = ("caption", "prompt", "model", "model_revision", "sampling")
    return _write_samples(((row["image_id"], row) for row in _ok_rows(tables)), columns, sink)


def _write_shard_sidecars(name: str, tables: Iterator[pa.Table], sink: BinaryIO) -> int:
    columns = ("status", "reason", "caption", "prompt", "model", "model_revision", "sampling")
    rows = (row for table in tables for row in table.to_pylist())
    samples = ((row["image_id"].removeprefix(f"{name}/"), row) for row in rows)
    return _write_samples(samples, columns, sink)


def _write_samples(
    samples: Iterator[tuple[str, dict[str, Any]]], columns: tuple[str, ...], sink: BinaryIO
) -> int:
    """Args:
    samples: Key and row of each sample.
    columns: Columns that the `.json` holds.
    """
    count = 0
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, row in samples:
            if row["status"] == "ok":
                add_member(tar, f"{key}.txt", row["caption"].encode())
            about = json.dumps({name: row[name] for name in columns}, ensure_ascii=False)
            add_member(tar, f"{key}.json", about.encode())
            count += 1
    return count


def _ok_rows(tables: Iterator[pa.Table]) -> Iterator[dict[str, Any]]:
    for table in tables:
        yield from (row for row in table.to_pylist() if row["status"] == "ok")


_WRITERS: dict[str, _Writer] = {
    ".json": _write_sharegpt4v,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
    ".tar": _write_sidecars,
}
