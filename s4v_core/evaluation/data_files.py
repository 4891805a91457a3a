"""Files as users have them on their disks: JSON, JSON lines in several dialects, and tables.

A file that is empty or was cut off is refused by name; nothing is read from half of it.
"""

import base64
import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.spreadsheets import read_sheet

csv.field_size_limit(1 << 30)  # a picture in base64 is one field

_FETCH_AGAIN = "fetch it again, whole"


def find_file(data: str, *patterns: str) -> str:
    """The one file that `data` is, or that lies below it under one of several names.

    Args:
        patterns: Paths below `data`, best first; `*` as in a shell.

    Raises:
        InputError: There is none, or several of the same pattern.
    """
    found = find_files(data, *patterns)
    if len(found) > 1:
        names = ", ".join(storage.base_name(one) for one in found[:4])
        raise InputError(data, f"found {len(found)} files ({names}); name one of them as --data")
    return found[0]


def find_files(data: str, *patterns: str) -> list[str]:
    """All files of the first pattern that any file fits; `data` itself if it is a file.

    Raises:
        InputError: There is none.
    """
    if storage.stat(data) is not None:
        return [data]
    for pattern in patterns:
        found = storage.expand(storage.join(data, pattern))
        found = [uri for uri in found if storage.stat(uri) is not None]
        if found:
            return found
    if not storage.exists(data):
        raise InputError(data, "no such file or folder")
    raise InputError(data, f"found none of {', '.join(patterns)}; name the file as --data")


def read_text(uri: str) -> str:
    """The text of a file, unpacked if it is gzip.

    Raises:
        InputError: The file is missing, empty, cut off or not text.
    """
    data = read_bytes(uri)
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError):
            raise InputError(uri, f"its gzip ends early; {_FETCH_AGAIN}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(uri, "is no text in UTF-8") from None
    if not text.strip():
        raise InputError(uri, f"is empty; {_FETCH_AGAIN}")
    return text


def read_bytes(uri: str) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: The file is missing or empty.
    """
    try:
        data = storage.read(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(uri, "no such file") from None
    if not data:
        raise InputError(uri, f"is empty; {_FETCH_AGAIN}")
    return data


def read_json(uri: str) -> Any:
    """The one value of a JSON file.

    Raises:
        InputError: It is no JSON, or only the beginning of it.
    """
    text = read_text(uri)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(uri, _describe(error, text)) from None
    except RecursionError:
        raise InputError(uri, "is nested too deeply to be a benchmark's file") from None


def read_records(uri: str, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Records of a list, of JSON lines (also with a comma after each), of objects that follow one
    another without a separator, of .tsv, .csv, .xlsx or .parquet. A JSON object whose values
    are not records is one record.

    Args:
        columns: Columns of a Parquet file to read, of any type; by default all plain ones.

    Raises:
        InputError: The file is empty, cut off, or of another kind.
    """
    name = uri.lower()
    if name.endswith(".xlsx"):
        return list(read_sheet(uri, read_bytes(uri)))
    if name.endswith(".parquet"):
        return _read_parquet(uri, columns)
    text = read_text(uri)
    if name.endswith((".tsv", ".csv")):
        return _read_table(uri, text, "\t" if name.endswith(".tsv") else ",")
    values = list(_iterate_json(uri, text))
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise InputError(uri, f"record {number}: found {kind}, expected an object")
    return values


def _iterate_json(uri: str, text: str) -> Iterator[Any]:
    decoder, at, blank = json.JSONDecoder(), 0, " \t\r\n,"
    while True:
        while at < len(text) and text[at] in blank:
            at += 1
        if at == len(text):
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InputError(uri, _describe(error, text)) from None
        except RecursionError:
            raise InputError(uri, "is nested too deeply to be a benchmark's file") from None
        yield value


def _describe(error: json.JSONDecodeError, text: str) -> str:
    place = f"line {error.lineno}, column {error.colno}"
    if error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated"):
        return f"ends in the middle of a record ({place}); {_FETCH_AGAIN}"
    return f"is no JSON: {error.msg} at {place}"


def _read_table(uri: str, text: str, delimiter: str) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader)
        rows = [row for row in reader if row]
    except csv.Error:
        # Strict reading fails where a quoted field ends early: at the end of half a file.
        raise InputError(
            uri, f"ends inside a quoted field or is no table; {_FETCH_AGAIN}"
        ) from None
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            where = "the last row" if number == len(rows) else f"row {number}"
            problem = f"{where} has {len(row)} of {len(names)} columns; {_FETCH_AGAIN}"
            raise InputError(uri, problem)
    if not rows:
        raise InputError(uri, f"has no rows; {_FETCH_AGAIN}")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _read_parquet(uri: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(uri)))
    except (pa.ArrowInvalid, OSError):
        raise InputError(uri, f"is no whole Parquet file; {_FETCH_AGAIN}") from None
    names = [name for name in table.column_names if not pa.types.is_nested(table[name].type)]
    if columns:
        names = [name for name in columns if name in table.column_names]
    rows: list[dict[str, Any]] = table.select(names).to_pylist()
    return rows


def decode_cell(cell: Any) -> bytes:
    """The picture in a cell of a table: bytes, base64, or {bytes: ...}; empty if there is none."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes")
    if isinstance(cell, str):
        try:
            return base64.b64decode(cell, validate=True)
        except ValueError:
            return b""
    return bytes(cell) if isinstance(cell, bytes) else b""


def require_columns(uri: str, row: dict[str, Any], names: Sequence[str], what: str) -> None:
    """Refuse a file whose records lack fields.

    Raises:
        InputError: A field is missing.
    """
    lacking = [name for name in names if name not in row]
    if lacking:
        found = ", ".join(list(row)[:8]) or "no fields"
        problem = f"is no file of {what}: {', '.join(lacking)} missing, found {found}"
        raise InputError(uri, problem)
