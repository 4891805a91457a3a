"""Writes the captions of a run, without the images, in one file of each format."""

import json
import tarfile
from collections.abc import Callable, Iterable
from typing import IO, Any

import pyarrow.parquet as pq

from s4v_core import chat
from s4v_core.captioning.export.image_names import name_image
from s4v_core.captioning.export.run_rows import ImageRow, RunRows
from s4v_core.inputs.tar import add_member
from s4v_core.records.captions import MAIN_FIELD

CaptionWriter = Callable[[RunRows, IO[bytes]], int]
"""Writes rows of a run to an open file; returns their number."""


def write_sharegpt4v(rows: RunRows, sink: IO[bytes]) -> int:
    """A JSON array of the ok rows with one record per line: it can be streamed, and compared line
    by line."""
    count = 0
    for row in rows.read_images():
        if row.is_ok:
            sink.write(b"[\n" if count == 0 else b",\n")
            sink.write(json.dumps(_build_record(row), ensure_ascii=False).encode())
            count += 1
    sink.write(b"\n]\n" if count else b"[]\n")
    return count


def _build_record(row: ImageRow) -> dict[str, Any]:
    """A row in the schema of the released files (ShareGPT4V-PT), with an id that is unique and, if
    it has further captions or fields, these as `more_captions` and `fields`."""
    record: dict[str, Any] = {
        "id": row.image_id,
        "image": name_image(row.planned, row.result),
        "conversations": [
            {"from": "human", "value": f"{chat.IMAGE}\n{row.result['prompt']}"},
            {"from": "gpt", "value": row.result["caption"]},
        ],
    }
    if row.result["more_captions"]:
        record["more_captions"] = row.result["more_captions"]
    if row.texts:
        record["fields"] = row.texts
    return record


def write_jsonl(rows: RunRows, sink: IO[bytes]) -> int:
    """All rows and columns, one JSON object per line."""
    count = 0
    for table in rows.read_tables():
        for row in table.to_pylist():
            row["created_at"] = row["created_at"].isoformat()
            sink.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def write_parquet(rows: RunRows, sink: IO[bytes]) -> int:
    """All rows and columns in one Parquet file."""
    count = 0
    with pq.ParquetWriter(sink, rows.units.contract.schema, compression="zstd") as writer:
        for table in rows.read_tables():
            writer.write_table(table)
            count += table.num_rows
    return count


def write_sidecars(rows: RunRows, sink: IO[bytes]) -> int:
    """WebDataset sidecars of the ok rows: `<image_id>.txt`, `<image_id>.json` and, for each field
    beside the caption, `<image_id>.<field>.txt`."""
    samples = ((row.image_id, row) for row in rows.read_images() if row.is_ok)
    return write_samples(samples, sink)


def write_samples(samples: Iterable[tuple[str, ImageRow]], sink: IO[bytes]) -> int:
    """A tar with a `.txt`, where there is a caption, and a `.json` for each row.

    Args:
        samples: Key and row of each sample.
    """
    count = 0
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, row in samples:
            add_sidecars(tar, key, row)
            count += 1
    return count


def add_sidecars(tar: tarfile.TarFile, key: str, row: ImageRow) -> None:
    """Add the caption, if there is one, and the facts of a row to a tar."""
    if row.is_ok:
        add_member(tar, f"{key}.txt", row.result["caption"].encode())
        for name, text in row.texts.items():
            if name != MAIN_FIELD:
                add_member(tar, f"{key}.{name}.txt", text.encode())
    about = json.dumps(row.list_facts(), ensure_ascii=False)
    add_member(tar, f"{key}.json", about.encode())


CAPTION_WRITERS: dict[str, CaptionWriter] = {
    ".json": write_sharegpt4v,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
    ".tar": write_sidecars,
}
"""Writers by the ending of the file."""
