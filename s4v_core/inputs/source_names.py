"""Which source an image belongs to, where a job says so: by patterns, or by a column."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa


def name_sources(rows: pa.Table, patterns: Sequence[str], column: str | None) -> pa.Table:
    """INDEX_SCHEMA in and out, with the sources that follow from the job's words.

    Args:
        patterns: `NAME=PATTERN`, of image ids or URIs; the first match counts, before any column.
        column: Field of the sidecars (JSON objects).
    """
    if not patterns and not column:
        return rows
    pairs = [tuple(pattern.split("=", 1)) for pattern in patterns]
    columns = rows.select(["image_id", "uri", "source", "payload"]).to_pylist()
    names = [_named(row, pairs, column) for row in columns]
    place = rows.schema.get_field_index("source")
    return rows.set_column(place, rows.schema.field(place), pa.array(names, pa.string()))


def _named(row: dict[str, Any], pairs: Sequence[Sequence[str]], column: str | None) -> str:
    for name, pattern in pairs:
        if fnmatchcase(row["image_id"], pattern) or fnmatchcase(row["uri"], pattern):
            return name
    found = _field(row["payload"], column) if column else None
    return str(row["source"] if found is None else found)


def _field(sidecar: str | None, name: str) -> Any:
    try:
        found = json.loads(sidecar or "null")
    except ValueError:
        return None
    return found.get(name) if isinstance(found, dict) else None
