"""Index of a Parquet shard, whose images are bytes in a column or files that a column names."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.inputs.image_names import ID_COLUMNS, ImageNames, is_inline_image
from s4v_core.inputs.parquet_columns import (
    PAGE_ERRORS,
    ImageColumn,
    choose_image_column,
    count_batch_rows,
    find_bytes_column,
    list_leaves,
    open_parquet,
)
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row, dump_columns
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of one Parquet that its index is made from.

    Attributes:
        image: Column of the images.
        place: What plan rows have as `length`: the image column, unless the reader finds it.
        name: Column of image ids, if there is one.
        source: Column of source names, if there is one.
        kept: Columns that are kept with each image as its sidecar.
        names: Resolves the names of image files.
        folder: Name of the folder that holds the Parquet.
    """

    image: ImageColumn
    place: int | None
    name: str | None
    source: str | None
    kept: list[str]
    names: ImageNames
    folder: str


class _Values(NamedTuple):
    """One row of the table, with what was read of it."""

    number: int
    name: Any
    cell: Any
    source: Any
    payload: str | None


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a row group's image column is read.

    Attributes:
        leaves: Paths of the physical columns to read.
        bytes_known: Whether every image without a value for its bytes is known to have some,
            because the bytes are not among the leaves.
    """

    leaves: list[str]
    bytes_known: bool


def index_parquet(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per image. The image bytes are only read where they alone tell whether an image
    has bytes or a path, or how many images a row has.

    The images of a row with a list have the ids `<id>#0`, `<id>#1` and so on, unless they have
    names of their own.

    Raises:
        InputError: No column holds or names images.
    """
    with storage.open_to_read(shard.uri) as file:
        table = _open_table(file, shard, account)
        if table is None:
            return
        if not table.metadata.num_rows:
            return
        layout = _find_layout(table.schema_arrow, shard, account)
        first = 0
        for group in range(table.num_row_groups):
            yield from _index_group(table, group, first, layout, shard, account)
            first += table.metadata.row_group(group).num_rows


def _open_table(file: BinaryIO, shard: Shard, account: ShardAccount) -> pq.ParquetFile | None:
    try:
        table = open_parquet(file)
        _ = table.schema_arrow
    except FileNotFoundError:
        raise
    except PAGE_ERRORS:
        is_encrypted = storage.read_tail(shard.uri, 4) == b"PARE"
        kind = "encrypted" if is_encrypted else "unreadable"
        account.damages.append(Damage(kind, 0))
        return None
    return table


def _find_layout(schema: pa.Schema, shard: Shard, account: ShardAccount) -> _Layout:
    image = choose_image_column(schema, shard.uri, shard.image_column, account.notes)
    return _Layout(
        image=image,
        place=None if image == find_bytes_column(schema) else image.number + 1,
        name=next((name for name in ID_COLUMNS if name in schema.names), None),
        source="source" if "source" in schema.names else None,
        kept=[column for column in shard.columns if column in schema.names],
        names=ImageNames(shard),
        folder=storage.base_name(storage.parent(shard.uri)),
    )


def _index_group(
    table: pq.ParquetFile,
    group: int,
    first: int,
    layout: _Layout,
    shard: Shard,
    account: ShardAccount,
) -> Iterator[Row]:
    """Yield the rows of one row group, up to a damage in a column that the index needs."""
    done = 0
    for reading in _list_readings(table, group, layout.image):
        try:
            for values in islice(_read_values(table, group, first, layout, reading), done, None):
                yield from _build_rows(values, reading, layout, shard, account)
                done += 1
            return
        except FileNotFoundError:
            raise
        except PAGE_ERRORS:
            continue
    account.damages.append(Damage("damaged_page", _find_start(table, group)))


def _list_readings(table: pq.ParquetFile, group: int, image: ImageColumn) -> Iterator[_Reading]:
    """The ways to read the image column of a row group. The next one is for damaged bytes."""
    leaves = list_leaves(table, image.name)
    if not image.has_bytes:
        yield _Reading(list(leaves), False)
        return
    if not image.is_struct:
        yield _Reading(list(leaves) if image.is_list else [], True)
        return
    paths = [leaf for leaf in leaves if leaf.endswith(".path")] if image.has_path else []
    held = next(leaf for leaf in leaves if leaf.endswith(".bytes"))
    facts = table.metadata.row_group(group).column(leaves[held])
    statistics = facts.statistics  # None if the writer left them out
    nulls = statistics.null_count if statistics else None
    if nulls == facts.num_values and paths:
        yield _Reading(paths, False)
        return
    if nulls != 0 or (image.is_list and not paths):
        yield _Reading([*paths, held], False)
    if paths or not image.is_list:
        yield _Reading(paths, True)


def _read_values(
    table: pq.ParquetFile, group: int, first: int, layout: _Layout, reading: _Reading
) -> Iterator[_Values]:
    """Yield the rows of a row group, a batch at a time."""
    others = [column for column in (layout.name, layout.source, *layout.kept) if column]
    leaves = {leaf: n for column in others for leaf, n in list_leaves(table, column).items()}
    leaves |= {leaf: list_leaves(table, layout.image.name)[leaf] for leaf in reading.leaves}
    rows = count_batch_rows(table, group, list(leaves.values()))
    number = first
    for batch in table.iter_batches(rows, row_groups=[group], columns=list(leaves)):
        names, cells, sources, *kept = (
            _list_column(batch, column)
            for column in (layout.name, layout.image.name, layout.source, *layout.kept)
        )
        payloads: Iterator[str | None] = repeat(None)
        if layout.kept:
            records = (dict(zip(layout.kept, row, strict=True)) for row in zip(*kept, strict=True))
            payloads = (dump_columns(record, layout.kept) for record in records)
        numbers = range(number, number + batch.num_rows)
        rows_of_batch = zip(numbers, names, cells, sources, payloads)  # noqa: B905 (one is endless)
        yield from map(_Values._make, rows_of_batch)
        number += batch.num_rows


def _list_column(batch: pa.RecordBatch, column: str | None) -> list[Any]:
    """The values of a column; nulls if it was not read."""
    if column is None or column not in batch.schema.names:
        return [None] * batch.num_rows
    values = batch.column(batch.schema.names.index(column))
    try:
        found: list[Any] = values.to_pylist()
    except ValueError:  # text that is no UTF-8, or a time that Python cannot hold
        found = [_read_scalar(value) for value in values]
    return found


def _read_scalar(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        if not isinstance(value, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar):
            return None
        return value.as_buffer().to_pybytes().decode("utf-8", "replace")
    except ValueError:
        return str(value.cast(pa.string()).as_py())


def _build_rows(
    values: _Values, reading: _Reading, layout: _Layout, shard: Shard, account: ShardAccount
) -> Iterator[Row]:
    if not layout.image.is_list:
        yield _build_row(values, values.cell, None, reading, layout, shard)
        return
    if not values.cell:
        account.skipped += 1
    for number, element in enumerate(values.cell or ()):
        yield _build_row(values, element, number, reading, layout, shard)


def _build_row(
    values: _Values,
    image: Any,
    element: int | None,
    reading: _Reading,
    layout: _Layout,
    shard: Shard,
) -> Row:
    is_held, name = _read_image(image, reading, layout.image)
    own = values.name if layout.name else name
    place: Row = {"container": "parquet", "uri": shard.uri, "etag": shard.etag}
    if is_held:
        place |= {"row": values.number, "offset": element, "length": layout.place}
    else:
        uri, problem = layout.names.resolve(name)
        place = {"container": "file", "uri": uri, "problem": problem}
        if problem == "bad_name" and not layout.name:
            own = None
    is_numbered = element is not None and (layout.name is not None or own in (None, ""))
    return build_row(
        image_id=(f"{shard.name}/{values.number}" if own in (None, "") else _as_text(own))
        + (f"#{element}" if is_numbered else ""),
        source=layout.folder if values.source is None else _as_text(values.source),
        payload=values.payload,
        **place,
    )


def _read_image(image: Any, reading: _Reading, column: ImageColumn) -> tuple[bool, Any]:
    """Whether the Parquet holds an image, and the image's name."""
    if isinstance(image, dict):
        has_bytes = reading.bytes_known or image.get("bytes") is not None
        return has_bytes, image.get("path")
    if column.has_bytes:
        return True, None
    if isinstance(image, bytes):
        image = image.decode("utf-8", "replace")
    if isinstance(image, str) and is_inline_image(image):
        return True, None
    return False, image


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _find_start(table: pq.ParquetFile, group: int) -> int:
    """The byte at which the first page of a row group lies."""
    facts = table.metadata.row_group(group)
    return min(facts.column(n).data_page_offset for n in range(facts.num_columns))
