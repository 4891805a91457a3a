"""The columns of rows at rest, and the one way to make a table of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from s4v_core.errors import SchemaError

_PLAN_FIELDS: list["pa.Field[Any]"] = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("unit", pa.int32(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    # file: the whole of `uri`; tar: a byte range of it; targz: a byte range of what it unpacks
    # to; parquet: row `row` of it.
    pa.field("container", pa.string(), nullable=False),
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
    pa.field("row", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field("source", pa.string(), nullable=False),
    pa.field("sidecar", pa.string()),
    # Known to be unreadable when it was indexed; becomes the row's reason.
    pa.field("problem", pa.string()),
]

PLAN_SCHEMA = pa.schema(_PLAN_FIELDS)
"""One row per image, before it is captioned. No image bytes."""

_RESULT_FIELDS: list["pa.Field[Any]"] = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("caption", pa.string()),
    # Further ones that passed the gate, where more than one was asked for.
    pa.field("more_captions", pa.list_(pa.string())),
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    # 0: none was needed, for what `reason` says or because of a twin.
    pa.field("attempts", pa.int32(), nullable=False),
    # The equal image whose caption this is (--dedupe).
    pa.field("twin_of", pa.string()),
    pa.field("finish_reason", pa.string()),
    pa.field("prompt_tokens", pa.int32()),
    pa.field("output_tokens", pa.int32()),
    # As a person sees the image: after EXIF orientation, before any resize. Pixels.
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("image_sha256", pa.string()),
    pa.field("image_format", pa.string()),
    # What the decoder had to decide: exif:6, alpha, cmyk, 16bit, animated:12; comma-separated.
    pa.field("image_flags", pa.string()),
    pa.field("prompt", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
    pa.field("model_revision", pa.string(), nullable=False),
    pa.field("engine", pa.string(), nullable=False),
    pa.field("sampling", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
]

RESULT_SCHEMA = pa.schema(_RESULT_FIELDS)
"""One row per image, failures included: the fixed contract of `OUTPUT/captions/*.parquet`."""

UNIT_SIZE = 256
"""Images of a unit, where a job says nothing else."""

STATUSES = ("ok", "rejected", "error")
"""ok: a caption; rejected: a text that the quality gate refused; error: no text. See `reason`."""


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, uri: str) -> pa.Table:
    """Rows as a table of exactly `schema`.

    pyarrow alone would drop unknown keys and fill missing ones with null.

    Raises:
        SchemaError: A row has other columns, or null where the schema forbids it.
    """
    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise SchemaError(uri, _listed(schema.names), _listed(row))
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
        raise SchemaError(uri, _listed(map(str, schema)), _listed(map(str, table.schema)))
    return table


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
