"""Files of records: JSON arrays, JSON Lines and Parquet, read and written record by record.

A JSON file that is read and written again is the same file byte for byte, and a record that moves
to another file keeps its text. Holds one record at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Protocol

from s4v_core import storage
from s4v_core.datasets.conversations import is_json
from s4v_core.datasets.record_tables import TABLE_ENDINGS, TableWriter, read_tables, render
from s4v_core.errors import ConfigError, InputError
from s4v_core.inputs.json_records import read_record_spans
from s4v_core.inputs.json_stream import BadRecord, Span

_PARQUET = ".parquet"


def read_record_file(
    uri: str, keeps_bad: bool = False, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Span]:
    """Yield the records of a JSON array, JSON Lines or Parquet file, or of a folder of tables, with
    their texts; the last span has no record, it is the text behind them.

    Args:
        keeps_bad: Whether a line that is no JSON is a BadRecord; else it is an error.
        on_bytes: Called with the number of bytes of a JSON file that have been read, unpacked.

    Raises:
        InputError: There is no such file, or it is none of these.
    """
    if storage.stat(uri) is None:
        yield from read_tables(_list_tables(uri))
    elif uri.lower().endswith(TABLE_ENDINGS):
        yield from read_tables([uri])
    elif is_json(uri):
        for number, span in enumerate(read_record_spans(uri, on_bytes), 1):
            if isinstance(span.value, BadRecord) and not keeps_bad:
                advice = "dataset.py audit writes a file without such records"
                raise InputError(uri, f"record {number} is no JSON; {advice}")
            yield span
    else:
        allowed = f"{', '.join(_WRITERS)}, also compressed JSON"
        raise InputError(uri, f"found no file of records by its name, allowed {allowed}")


def _list_tables(folder: str) -> list[str]:
    """The tables of a folder, as `datasets` and the hub lay them out."""
    if not storage.is_folder(folder):
        raise InputError(folder, "no such file or folder")
    files = [file.uri for file in storage.list_tree(folder).files]
    tables = [uri for uri in files if uri.lower().endswith(TABLE_ENDINGS)]
    if not tables:
        raise InputError(folder, f"no table of records in it, allowed {', '.join(TABLE_ENDINGS)}")
    return tables


class RecordWriter(Protocol):
    """Writes records one after the other. Takes the spans of a whole file, its end included."""

    def write(self, span: Span) -> None:
        """Write a record, or the end of the file."""

    def skip(self, span: Span) -> None:
        """Leave a record out."""


class _ArrayWriter:
    """Writes a JSON array, with the separators of the array that the records come from."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._opening: str | None = None
        self._is_array = self._has_records = False

    def write(self, span: Span) -> None:
        if not span.text:
            self._end(span.before)
            return
        opening = self._open(span.before)
        before = span.before if self._is_array else ",\n"
        _put(self._sink, (before if self._has_records else opening) + span.text)
        self._has_records = True

    def skip(self, span: Span) -> None:
        self._open(span.before)

    def _open(self, before: str) -> str:
        if self._opening is None:
            self._is_array = "[" in before
            self._opening = before if self._is_array else "[\n"
        return self._opening

    def _end(self, tail: str) -> None:
        if self._opening is None:  # the file has no record at all
            _put(self._sink, tail if "[" in tail else "[]\n")
            return
        tail = tail if self._is_array else "\n]\n"
        _put(self._sink, tail if self._has_records else self._opening.rstrip() + tail.lstrip())


class _LinesWriter:
    """Writes JSON Lines; those that come from JSON Lines keep their blank lines and line ends."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._is_array: bool | None = None
        self._has_records = self._has_skipped = False

    def write(self, span: Span) -> None:
        self._note_form(span)
        before, text = span.before, span.text
        if "\n" in text or "\r" in text:
            text = render(span.value)
        if self._is_array:
            _put(self._sink, text + "\n" if text else "")
            return
        if self._has_skipped and not self._has_records:
            before = before.lstrip("\r\n")  # the line end of the record that was left out
        _put(self._sink, before + text)
        self._has_records = True

    def skip(self, span: Span) -> None:
        self._note_form(span)
        self._has_skipped = True

    def _note_form(self, span: Span) -> None:
        if self._is_array is None:
            self._is_array = "[" in span.before


_WRITERS: dict[str, Callable[[IO[bytes]], RecordWriter]] = {
    ".json": _ArrayWriter,
    ".jsonl": _LinesWriter,
    ".ndjson": _LinesWriter,
    _PARQUET: TableWriter,
}


def _put(sink: IO[bytes], text: str) -> None:
    sink.write(text.encode("utf-8", "surrogateescape"))


def check_target(uri: str) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        ConfigError: Its ending is none of records, or something lies there already.
    """
    if _find_ending(uri) is None:
        raise ConfigError(f"to: found {uri!r}, allowed names ending in {', '.join(_WRITERS)}")
    check_free(uri)


def check_free(uri: str) -> None:
    """Refuse the name of a file that exists.

    Raises:
        ConfigError: Something lies there already.
    """
    if storage.stat(uri) is not None:
        raise ConfigError(f"to: {uri} exists and is not overwritten; remove it, or name another")


def _find_ending(uri: str) -> str | None:
    return next((ending for ending in _WRITERS if uri.lower().endswith(ending)), None)


@contextmanager
def write_record_file(uri: str) -> Iterator[RecordWriter]:
    """Write a file of records, in the form that its ending says; it appears whole at the end of the
    block, and never in the place of another.

    Raises:
        ConfigError: Its ending is none of records, or something lies there already.
    """
    check_target(uri)
    with NamedTemporaryFile() as file:
        writer = _WRITERS[_find_ending(uri) or ""](file)
        yield writer
        file.flush()
        if not storage.create_file(uri, Path(file.name)):
            check_free(uri)
