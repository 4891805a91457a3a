"""Index of a list of images: a .csv or .tsv with or without a header, or one name per line."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.inputs.file_kinds import find_ending
from s4v_core.inputs.image_names import (
    ID_COLUMNS,
    NAME_COLUMNS,
    ImageNames,
    looks_like_image,
    note_choice,
)
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row, dump_columns
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.text_blocks import TextBlocks, split_lines

_DELIMITERS = {"csv": ",;\t|", "tsv": "\t", "txt": "\t,;"}
"""Characters that may separate the fields, by ending, in the order in which they are tried."""

_PROBED_LINES = 100
"""Number of lines that decide what kind of list it is."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How a list is written.

    Attributes:
        delimiter: Character between two fields.
        header: Names of the fields, if the first line has them.
        image: Number of the field that names the image.
    """

    delimiter: str
    header: tuple[str, ...]
    image: int

    def find(self, names: Sequence[str]) -> int | None:
        """Number of the first of these fields that the header has."""
        return next((self.header.index(name) for name in names if name in self.header), None)


def index_list(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per line that names an image. An image that is named again gets no second row,
    unless the list has a column of ids.

    Raises:
        InputError: The list names no images.
    """
    with storage.open_to_read(shard.uri) as file:
        blocks = TextBlocks(file)
        lines = split_lines(iter(blocks))
        probed = list(islice(lines, _PROBED_LINES))
        form = _find_form(probed, shard, account)
        rows = _read_fields(chain(probed, lines), form, _find_kind(shard.uri))
        if form.header:
            next(rows)
        yield from _build_rows(rows, form, shard, account)
        if damage := blocks.find_damage():
            account.damages.append(damage)


def _find_kind(uri: str) -> str:
    """The ending of a list, without those of a compression and of a presigned URL's query."""
    path = uri.split("?", 1)[0] if "://" in uri else uri
    ending = find_ending(path)
    ending = find_ending(path[:-3]) if ending == "gz" else ending
    return ending if ending in _DELIMITERS else "csv"


def _find_form(lines: list[str], shard: Shard, account: ShardAccount) -> _Form:
    kind = _find_kind(shard.uri)
    probed = [line for line in lines if line.strip()]
    for delimiter in _DELIMITERS[kind]:
        if form := _try_delimiter(probed, delimiter, kind, shard.image_column, account.notes):
            return form
    if not probed:
        raise InputError(shard.uri, "the list is empty")
    found = probed[0].strip()
    found = found if len(found) <= 60 else found[:57] + "..."
    if shard.image_column:
        raise InputError(shard.uri, f"no column {shard.image_column}: found {found!r}")
    allowed = "a path or URL of an image in each line, or a header with one of "
    raise InputError(
        shard.uri, f"names no images: found {found!r}, allowed {allowed}{', '.join(NAME_COLUMNS)}"
    )


def _try_delimiter(
    lines: list[str], delimiter: str, kind: str, wanted: str | None, notes: list[str]
) -> _Form | None:
    """The form of a list, if this delimiter makes a field that names images."""
    header = tuple(next(_split_quoted(iter(lines), delimiter), ()))
    header = tuple(name.strip() for name in header)
    if wanted is not None:
        return _Form(delimiter, header, header.index(wanted)) if wanted in header else None
    lower = [name.lower() for name in header]
    candidates = [name for name in NAME_COLUMNS if name in lower]
    if candidates and not any(map(looks_like_image, header)):
        numbers = [lower.index(name) for name in candidates]
        note_choice(header[numbers[0]], [header[number] for number in numbers], notes)
        return _Form(delimiter, header, numbers[0])
    # A table without a header shows itself in its first line; a plain list may begin with a title.
    for line in lines if kind == "txt" else lines[:1]:
        fields = next(_read_fields(iter([line]), _Form(delimiter, (), 0), kind))
        images = [number for number, field in enumerate(fields) if looks_like_image(field)]
        if images:
            return _Form(delimiter, (), images[0])
    return None


def _read_fields(lines: Iterator[str], form: _Form, kind: str) -> Iterator[list[str]]:
    """Yield the fields of each line.

    Programs that write a header quote their fields. In a .tsv or .txt without one, a quotation mark
    belongs to the text, and would hide the lines up to the next one.
    """
    if kind == "csv" or form.header:
        return _split_quoted(lines, form.delimiter)
    return (line.rstrip("\n").split(form.delimiter) for line in lines if line.strip())


def _split_quoted(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Yield the fields of each record. Where a quotation mark has no partner, every line that it
    would hide is a record of its own."""
    held: list[str] = []

    def hold_lines() -> Iterator[str]:
        for line in lines:
            held.append(line)
            yield line

    source = hold_lines()
    while True:
        try:
            for fields in csv.reader(source, delimiter=delimiter, strict=True):
                held.clear()
                if fields:
                    yield fields
        except csv.Error:
            yield from (line.rstrip("\n").split(delimiter) for line in held if line.strip())
            held.clear()
        else:
            return


def _build_rows(
    rows: Iterator[list[str]], form: _Form, shard: Shard, account: ShardAccount
) -> Iterator[Row]:
    names = ImageNames(shard)
    id_field, source_field = form.find(ID_COLUMNS), form.find(("source",))
    kept = [column for column in shard.columns if column in form.header]
    seen: set[int] = set()
    for number, fields in enumerate(rows):
        name = _read_field(fields, form.image)
        uri, problem = names.resolve(name)
        own = _read_field(fields, id_field)
        if own is None and uri:
            own = name
            if hash(uri) in seen:
                account.repeated += 1
                continue
            seen.add(hash(uri))
        values = {column: _read_field(fields, form.header.index(column)) for column in kept}
        yield build_row(
            image_id=own or f"{shard.name}/{number}",
            uri=uri,
            container="file",
            source=_read_field(fields, source_field) or names.name_source(uri),
            payload=dump_columns(values, kept),
            problem=problem,
        )


def _read_field(fields: list[str], number: int | None) -> str | None:
    """A field of a line; None if it is missing or empty."""
    if number is None or number >= len(fields):
        return None
    return fields[number].strip() or None
