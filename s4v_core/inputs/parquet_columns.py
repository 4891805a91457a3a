"""Finds the column of a Parquet that holds or names the images. Reads no row.

Every kind of string names images, and every kind of binary holds them, alone, in the structs of
Hugging Face data sets, and in lists of either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core.errors import InputError
from s4v_core.inputs.image_names import NAME_COLUMNS, note_choice

BYTES_COLUMNS = (
    *("image", "images", "bytes", "image_bytes", "img", "img_bytes", "image_data"),
    *("jpg", "jpeg", "png", "webp", "content"),
)
"""Columns that hold encoded images, in order of preference."""

_BUFFER_BYTES = 1 << 20
_BATCH_BYTES = 32 << 20
_MAX_BATCH_ROWS = 4096

PAGE_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
"""Errors that pyarrow raises for a damaged page. A FileNotFoundError among them is the store's."""


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """The column of a Parquet that its images come from.

    Attributes:
        number: Position of the column.
        name: Name of the column.
        is_list: Whether a row has a list of images.
        is_struct: Whether an image is a struct of bytes and path.
        has_bytes: Whether the images, or some of them, are in the Parquet.
        has_path: Whether an image is a struct with a path.
    """

    number: int
    name: str
    is_list: bool
    is_struct: bool
    has_bytes: bool
    has_path: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """How a row group's image column is read.

    Attributes:
        leaves: Paths of the physical columns to read.
        bytes_known: Whether every image without a value for its bytes is known to have some,
            because the bytes are not among the leaves.
    """

    leaves: list[str]
    bytes_known: bool


def open_parquet(file: BinaryIO) -> pq.ParquetFile:
    """Open a Parquet whose columns are streamed: a row group may be larger than the memory."""
    return pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)


def choose_image_column(
    schema: pa.Schema, uri: str, wanted: str | None, notes: list[str]
) -> ImageColumn:
    """Choose the column of the images, and add a note if others could be it, too.

    Raises:
        InputError: There is no such column, or the wanted one is of another type.
    """
    if wanted is not None:
        return _check_wanted(schema, uri, wanted)
    candidates = list(_list_candidates(schema))
    if not candidates:
        allowed = ", ".join(dict.fromkeys((*BYTES_COLUMNS, *NAME_COLUMNS)))
        raise InputError(
            uri, f"no image column: found {', '.join(schema.names)}, allowed {allowed}"
        )
    note_choice(candidates[0].name, [column.name for column in candidates], notes)
    return candidates[0]


def find_bytes_column(schema: pa.Schema) -> ImageColumn | None:
    """The column with encoded images that is chosen if the user names none."""
    found = next(_list_candidates(schema), None)
    return found if found and found.has_bytes else None


def read_column_type(schema: pa.Schema, number: int) -> ImageColumn | None:
    """Describe a column; None if it can be no image."""
    kind = _unwrap(schema.field(number).type)
    is_list = _is_list(kind)
    if is_list:
        kind = _unwrap(kind.value_type)
    name = schema.names[number]
    if not pa.types.is_struct(kind):
        if not (_is_binary(kind) or _is_text(kind)):
            return None
        return ImageColumn(number, name, is_list, False, _is_binary(kind), False)
    fields = {field.name: _unwrap(field.type) for field in kind}
    has_bytes = _is_binary(fields.get("bytes"))
    has_path = _is_text(fields.get("path"))
    if not (has_bytes or has_path):
        return None
    return ImageColumn(number, name, is_list, True, has_bytes, has_path)


def list_leaves(table: pq.ParquetFile, column: str) -> dict[str, int]:
    """Number of each physical column below a column, by its path."""
    paths = {table.schema.column(number).path: number for number in range(len(table.schema))}
    return {
        path: number
        for path, number in paths.items()
        if path == column or path.startswith(f"{column}.")
    }


def count_batch_rows(table: pq.ParquetFile, group: int, leaves: list[int]) -> int:
    """How many rows of a row group fit into a batch of a fixed size."""
    facts = table.metadata.row_group(group)
    size = sum(facts.column(number).total_uncompressed_size for number in leaves)
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * facts.num_rows // max(size, 1)))


def list_readings(table: pq.ParquetFile, group: int, image: ImageColumn) -> Iterator[Reading]:
    """The ways to read the image column of a row group. The next one is for damaged bytes."""
    leaves = list_leaves(table, image.name)
    if not image.has_bytes:
        yield Reading(list(leaves), False)
        return
    if not image.is_struct:
        yield Reading(list(leaves) if image.is_list else [], True)
        return
    paths = [leaf for leaf in leaves if leaf.endswith(".path")] if image.has_path else []
    held = next(leaf for leaf in leaves if leaf.endswith(".bytes"))
    facts = table.metadata.row_group(group).column(leaves[held])
    statistics = facts.statistics  # None if the writer left them out
    nulls = statistics.null_count if statistics else None
    if nulls == facts.num_values and paths:
        yield Reading(paths, False)
        return
    if nulls != 0 or (image.is_list and not paths):
        yield Reading([*paths, held], False)
    if paths or not image.is_list:
        yield Reading(paths, True)


def _check_wanted(schema: pa.Schema, uri: str, wanted: str) -> ImageColumn:
    if wanted not in schema.names:
        raise InputError(uri, f"no column {wanted}: found {', '.join(schema.names)}")
    number = schema.names.index(wanted)
    column = read_column_type(schema, number)
    if column is None:
        found = schema.field(number).type
        usable = [schema.names[n] for n in range(len(schema)) if read_column_type(schema, n)]
        problem = f"the column {wanted} cannot be images: found {found}, allowed text or binary"
        raise InputError(uri, problem + (f", as in {', '.join(usable)}" if usable else ""))
    return column


def _list_candidates(schema: pa.Schema) -> Iterator[ImageColumn]:
    """Columns that could be the image, the best first: bytes go before names."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(schema.names):
        numbers.setdefault(name.lower(), number)
    found: set[int] = set()
    for name in BYTES_COLUMNS:
        column = name in numbers and read_column_type(schema, numbers[name])
        if column and column.has_bytes:
            found.add(column.number)
            yield column
    for name in NAME_COLUMNS:
        column = name in numbers and read_column_type(schema, numbers[name])
        # Older writers left text unmarked, so that a path or URL reads as binary.
        if column and column.number not in found:
            yield _as_names(column)


def _as_names(column: ImageColumn) -> ImageColumn:
    if column.is_struct:
        return column
    return ImageColumn(column.number, column.name, column.is_list, False, False, False)


def _unwrap(kind: Any) -> Any:
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def _is_list(kind: Any) -> bool:
    types = pa.types
    checks = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
    return any(check(kind) for check in (*checks, types.is_large_list_view))


def _is_text(kind: Any) -> bool:
    types = pa.types
    checks = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return kind is not None and any(check(kind) for check in checks)


def _is_binary(kind: Any) -> bool:
    types = pa.types
    checks = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return kind is not None and any(check(kind) for check in (*checks, types.is_fixed_size_binary))
