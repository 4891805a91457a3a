"""Index of a Parquet shard, whose images are bytes in a column or files that a column names."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.inputs.image_names import ID_COLUMNS, ImageNames, is_inline_image
from s4v_core.inputs.parquet_columns import (
    PAGE_ERRORS,
    ImageColumn,
    Reading,
    choose_image_column,
    count_batch_rows,
    find_bytes_column,
    list_leaves,
    list_readings,
    open_parquet,
)
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row, dump_columns
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage

_Values = tuple[int, Any, Any, Any, str | None]
"""A row of the table: its number, id, image or images, source and sidecar."""


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
        if table is None or not table.metadata.num_rows:
            return
        layout = _find_layout(table.schema_arrow, shard, account)
        first = 0
        for group in range(table.num_row_groups):
            yield from _GroupIndex(table, group, first, layout, shard).list_rows(account)
            first += table.metadata.row_group(group).num_rows


def holds_image_bytes(uri: str) -> bool:
    """Whether a Parquet holds images, and not only their names; one that is damaged counts."""
    with storage.open_to_read(uri, block_mib=1) as file:
        try:
            return find_bytes_column(open_parquet(file).schema_arrow) is not None
        except PAGE_ERRORS:
            return True


def _open_table(file: BinaryIO, shard: Shard, account: ShardAccount) -> pq.ParquetFile | None:
    try:
        table = open_parquet(file)
        _ = table.schema_arrow
        length = table.metadata.serialized_size
    except FileNotFoundError:
        raise
    except PAGE_ERRORS:
        length = None
    tail = storage.read_tail(shard.uri, 8)
    if length == int.from_bytes(tail[:4], "little"):
        return table
    # A footer that is not encrypted itself is signed, and the signature makes it longer. Asking for
    # the facts of an encrypted column would end the process.
    is_encrypted = length is not None or tail.endswith(b"PARE")
    account.damages.append(Damage("encrypted" if is_encrypted else "unreadable", 0))
    return None


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


class _GroupIndex:
    """Makes the rows of one row group, whose first row is row `first` of the table."""

    def __init__(
        self, table: pq.ParquetFile, group: int, first: int, layout: _Layout, shard: Shard
    ) -> None:
        self._table, self._group, self._first = table, group, first
        self._layout, self._shard = layout, shard

    def list_rows(self, account: ShardAccount) -> Iterator[Row]:
        """Yield the rows up to a damage in a column that the index needs."""
        done = 0
        for reading in list_readings(self._table, self._group, self._layout.image):
            try:
                for values in islice(self._read_values(reading), done, None):
                    if self._layout.image.is_list:
                        yield from self._build_list(values, reading, account)
                    else:
                        yield self._build_row(values, values[2], None, reading)
                    done += 1
                return
            except FileNotFoundError:
                raise
            except PAGE_ERRORS:
                continue
        account.damages.append(Damage("damaged_page", self._find_start()))

    def _read_values(self, reading: Reading) -> Iterator[_Values]:
        """Yield the rows, a batch at a time."""
        layout = self._layout
        others = [column for column in (layout.name, layout.source, *layout.kept) if column]
        leaves: dict[str, int] = {}
        for column in others:
            leaves |= list_leaves(self._table, column)
        images = list_leaves(self._table, layout.image.name)
        leaves |= {leaf: images[leaf] for leaf in reading.leaves}
        batch_rows = count_batch_rows(self._table, self._group, list(leaves.values()))
        batches = self._table.iter_batches(batch_rows, [self._group], list(leaves))
        number = self._first
        for batch in batches:
            end = number + batch.num_rows
            names, cells, sources = (
                _list_column(batch, column)
                for column in (layout.name, layout.image.name, layout.source)
            )
            payloads = _dump_payloads(batch, layout.kept)
            yield from zip(range(number, end), names, cells, sources, payloads, strict=True)
            number = end

    def _build_list(
        self, values: _Values, reading: Reading, account: ShardAccount
    ) -> Iterator[Row]:
        images = values[2]
        if not images:
            account.skipped += 1
        for element, image in enumerate(images or ()):
            yield self._build_row(values, image, element, reading)

    def _build_row(self, values: _Values, image: Any, element: int | None, reading: Reading) -> Row:
        number, own, _, source, payload = values
        is_held, name = _read_image(image, reading, self._layout.image)
        uri, problem, container = self._shard.uri, None, "parquet"
        if not is_held:
            uri, problem = self._layout.names.resolve(name)
            is_held = problem == "bad_name" and isinstance(name, str) and is_inline_image(name)
            if is_held:
                uri, problem = self._shard.uri, None
            else:
                container = "file"
            if not uri or is_held:
                name = None
        row = build_row(
            image_id=self._name_image(number, own, name, element),
            uri=uri,
            container=container,
            source=self._layout.folder if source is None else _as_text(source),
            payload=payload,
            problem=problem,
        )
        row["member"] = row["image_id"].removeprefix(f"{self._shard.name}/")
        if is_held:
            row["row"], row["offset"] = number, element
            row["length"], row["etag"] = self._layout.place, self._shard.etag
        return row

    def _name_image(self, number: int, own: Any, name: Any, element: int | None) -> str:
        """The id of an image: the table's, or the image's own name, or the number of its row."""
        if own in (None, ""):
            if name:
                return _as_text(name)
            own = f"{self._shard.name}/{number}"
        return _as_text(own) if element is None else f"{_as_text(own)}#{element}"

    def _find_start(self) -> int:
        """The byte at which the first page of the row group lies."""
        facts = self._table.metadata.row_group(self._group)
        return min(facts.column(n).data_page_offset for n in range(facts.num_columns))


def _list_column(batch: pa.RecordBatch, column: str | None) -> list[Any]:
    """The values of a column; nulls if it was not read."""
    if column is None or column not in batch.schema.names:
        return [None] * batch.num_rows
    values = batch.column(batch.schema.names.index(column))
    try:
        found: list[Any] = values.to_pylist()
    except (ValueError, OverflowError):  # no UTF-8, or a time that Python cannot hold
        found = [_read_scalar(value) for value in values]
    return found


def _read_scalar(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        if not isinstance(value, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar):
            return None
        return value.as_buffer().to_pybytes().decode("utf-8", "replace")
    except (ValueError, OverflowError):
        return str(value.cast(pa.string()).as_py())


def _dump_payloads(batch: pa.RecordBatch, kept: list[str]) -> list[str | None]:
    if not kept:
        return [None] * batch.num_rows
    columns = [_list_column(batch, column) for column in kept]
    rows = zip(*columns, strict=True)
    return [dump_columns(dict(zip(kept, row, strict=True)), kept) for row in rows]


def _read_image(image: Any, reading: Reading, column: ImageColumn) -> tuple[bool, Any]:
    """Whether the Parquet holds an image, and the image's name."""
    if isinstance(image, str):
        return False, image
    if isinstance(image, dict):
        has_bytes = reading.bytes_known or image.get("bytes") is not None
        return has_bytes, image.get("path")
    if column.has_bytes:
        return True, None
    return False, image.decode("utf-8", "replace") if isinstance(image, bytes) else image


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
