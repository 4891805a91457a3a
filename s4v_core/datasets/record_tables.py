"""Records as Parquet: columns for the fields of ShareGPT4V, and the whole record where they do not
say all of it."""

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.inputs.json_stream import Span

_TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("conversations", pa.list_(_TURN)),
        ("record", pa.string()),
    ]
)
"""Columns of a table of records. `record` is the record as JSON if the other columns cannot say it:
further fields, numbers as ids, another order of fields."""

_FIELDS = ("id", "image", "conversations")
_BATCH = 4096


def render(value: Any) -> str:
    """A value as JSON on one line; characters that UTF-8 cannot hold are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


TABLE_ENDINGS = (".parquet", ".arrow")
"""Endings of tables that can be read; .arrow is what `datasets` saves to a disk."""


def read_tables(uris: Sequence[str]) -> Iterator[Span]:
    """Yield the rows of tables as the records of one array, each with its JSON; nulls are missing
    fields.

    Raises:
        InputError: A file is no table, or a column holds what JSON cannot.
    """
    before = "[\n"
    for uri in uris:
        for record in _read_records(uri):
            yield Span(before, render(record), record)
            before = ",\n"
    yield Span("\n]\n" if before == ",\n" else "[]\n", "", None)


def _read_records(uri: str) -> Iterator[Any]:
    with storage.open_to_read(uri) as file:
        try:
            for batch in _read_batches(uri, file):
                for row in batch.to_pylist():
                    yield _read_row(uri, row)
        except pa.ArrowInvalid as error:
            raise InputError(uri, f"not a Parquet or Arrow file: {error}") from None


def _read_batches(uri: str, file: BinaryIO) -> Iterator[pa.RecordBatch]:
    if uri.lower().endswith(".arrow"):
        yield from pa.ipc.open_stream(cast(Any, file))
    else:
        yield from pq.ParquetFile(file).iter_batches(_BATCH)


def _read_row(uri: str, row: dict[str, Any]) -> Any:
    if row.keys() == set(SCHEMA.names) and row["record"] is not None:
        return json.loads(row["record"])
    record = {name: value for name, value in row.items() if value is not None}
    try:
        json.dumps(record)
    except TypeError as error:
        raise InputError(uri, f"a column holds what JSON cannot: {error}") from None
    return record


class TableWriter:
    """Writes records to a Parquet file, a batch at a time."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(sink, SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, span: Span) -> None:
        """Add a record; the end of a file writes what is left and closes the table."""
        if span.text:
            self._rows.append(_build_row(span.value))
        if len(self._rows) == _BATCH or (self._rows and not span.text):
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._rows.clear()
        if not span.text:
            self._writer.close()

    def skip(self, span: Span) -> None:
        """A table has no separators: there is nothing to note."""


def _build_row(record: Any) -> dict[str, Any]:
    if _fits_columns(record):
        return {name: record.get(name) for name in _FIELDS}
    columns = record if isinstance(record, dict) else {}
    turns = columns.get("conversations")
    return {
        "id": _keep_text(columns.get("id")),
        "image": _keep_text(columns.get("image")),
        "conversations": turns if _are_turns(turns) else None,
        "record": json.dumps(record),
    }


def _fits_columns(record: Any) -> bool:
    """Whether the columns give the record back as it is, the order of its fields included."""
    if not isinstance(record, dict) or list(record) != [n for n in _FIELDS if n in record]:
        return False
    texts = [record[name] for name in ("id", "image") if name in record]
    return all(_keep_text(text) is not None for text in texts) and (
        "conversations" not in record or _are_turns(record["conversations"])
    )


def _are_turns(turns: Any) -> bool:
    return isinstance(turns, list) and all(
        isinstance(turn, dict)
        and list(turn) == ["from", "value"]
        and all(_keep_text(text) is not None for text in turn.values())
        for turn in turns
    )


def _keep_text(value: Any) -> str | None:
    """A text that a table can hold; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value
