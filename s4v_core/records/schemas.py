"""The columns of planned rows, and the one way to make a table of rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from s4v_core.errors import SchemaError

PLACE_FIELDS: tuple["pa.Field[Any]", ...] = (
    pa.field("uri", pa.string()),
    # file: all of `uri`; tar: a byte range of it; targz: a byte range of what it unpacks to; zip:
    # entry `row` of its directory; parquet: row `row` of it; null: the row has no file.
    pa.field("container", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
    pa.field("row", pa.int64()),
    # The row's own name in an archive: the path of a member.
    pa.field("member", pa.string()),
    pa.field("etag", pa.string()),
    # Where the row comes from; reports count by it.
    pa.field("source", pa.string()),
    # Text that belongs to the row: the sidecar of an image, or the whole of a row without a file.
    pa.field("payload", pa.string()),
    # Why the row is known to be unreadable since it was indexed; becomes the result's reason.
    pa.field("problem", pa.string()),
)
"""Where a planned row's bytes lie, and what else is known of it. No bytes. All may be null."""

UNIT_SIZE = 256
"""Rows of a unit, when a job names no other number."""


def plan_schema(key: str) -> pa.Schema:
    """One row per planned row of a run whose rows are identified by the column `key`."""
    return pa.schema([_key_field(key), pa.field("unit", pa.int32(), nullable=False), *PLACE_FIELDS])


def index_schema(key: str) -> pa.Schema:
    """Rows of the plan before they are cut into units."""
    return pa.schema([_key_field(key), *PLACE_FIELDS])


def _key_field(key: str) -> "pa.Field[Any]":
    return pa.field(key, pa.string(), nullable=False)


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, uri: str) -> pa.Table:
    """Rows as a table of exactly `schema`.

    pyarrow alone would drop unknown keys and fill missing ones with null.

    Raises:
        SchemaError: A row has other columns, or null where the schema forbids it.
    """
    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise SchemaError(uri, _join_sorted(schema.names), _join_sorted(row))
    table = pa.Table.from_pylist(list(rows), schema=schema)
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise SchemaError(uri, f"a value in every {field.name}", "null")
    return table


def check_schema(table: pa.Table, schema: pa.Schema, uri: str) -> pa.Table:
    """`table` itself, if it has the columns and types of `schema`.

    Raises:
        SchemaError: It has others.
    """
    if not table.schema.equals(schema):
        raise SchemaError(uri, _join_sorted(map(str, schema)), _join_sorted(map(str, table.schema)))
    return table


def _join_sorted(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
