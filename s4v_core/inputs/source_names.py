"""Names the source of each image as a job asks for it: by patterns, or by a column."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa


def name_sources(rows: pa.Table, patterns: Sequence[str], column: str | None) -> pa.Table:
    """Replace the sources in a table of INDEX_SCHEMA.

    Args:
        patterns: `NAME=PATTERN`, matched against image ids and URIs; the first match counts, and
            it counts before the column.
        column: Field of the sidecars (JSON objects) that holds the source.
    """
    if not patterns and not column:
        return rows
    pairs = [tuple(pattern.split("=", 1)) for pattern in patterns]
    columns = rows.select(["image_id", "uri", "source", "payload"]).to_pylist()
    names = [_choose_source(row, pairs, column) for row in columns]
    place = rows.schema.get_field_index("source")
    return rows.set_column(place, rows.schema.field(place), pa.array(names, pa.string()))


def _choose_source(row: dict[str, Any], pairs: Sequence[Sequence[str]], column: str | None) -> str:
    for name, pattern in pairs:
        if fnmatchcase(row["image_id"], pattern) or fnmatchcase(row["uri"], pattern):
            return name
    found = _read_field(row["payload"], column) if column else None
    return str(row["source"] if found is None else found)


def _read_field(sidecar: str | None, name: str) -> Any:
    try:
        found = json.loads(sidecar or "null")
    except ValueError:
        return None
    return found.get(name) if isinstance(found, dict) else None
