"""Index of a Parquet shard, whose images are bytes in a column or files that a column names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row, dump_columns, resolve_image
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage

_ID_COLUMNS = ("image_id", "id", "key", "__key__")
_BYTES_COLUMNS = ("image", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "content")
_URI_COLUMNS = ("uri", "image_uri", "path", "image_path", "file_name", "url", "image")


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of one Parquet that its index is made from.

    Attributes:
        image: Column of encoded images; None if the images are files.
        uri: Column that names the image files; None if the images are in the Parquet.
        name: Column of image ids, if there is one.
        path: Field of the image column with the image's name, if there is one.
        source: Column of source names, if there is one.
        kept: Columns that are kept with each image as its sidecar.
        root: Folder of the image files.
        folder: Name of the folder that holds the Parquet.
    """

    image: str | None
    uri: str | None
    name: str | None
    path: str | None
    source: str | None
    kept: list[str]
    root: str
    folder: str

    def list_columns(self) -> list[str]:
        """Columns to read. The image bytes are not among them."""
        columns = (self.name, self.uri, self.path, self.source, *self.kept)
        return [column for column in dict.fromkeys(columns) if column]


def index_parquet(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per row of it, read without the image bytes.

    Raises:
        InputError: No column holds or names images.
    """
    number = 0
    with storage.open_to_read(shard.uri) as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid:
            account.damages.append(Damage("unreadable", 0))
            return
        layout = _find_layout(table.schema_arrow, shard)
        for batch in table.iter_batches(columns=layout.list_columns()):
            for values in batch.to_pylist():
                yield _build_row(values, number, layout, shard)
                number += 1


def holds_image_bytes(uri: str) -> bool:
    """Whether a Parquet holds images, and not only their names."""
    with storage.open_to_read(uri, block_mib=1) as file:
        try:
            return find_bytes_column(pq.read_schema(file)) is not None
        except pa.ArrowInvalid:
            return True


def find_bytes_column(schema: pa.Schema) -> str | None:
    """The column with encoded images: binary, or the struct of Hugging Face data sets."""
    for name in _BYTES_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
            if _has_field(schema, name, "bytes"):
                return name
    return None


def _find_layout(schema: pa.Schema, shard: Shard) -> _Layout:
    image = find_bytes_column(schema)
    parent = storage.parent(shard.uri)
    return _Layout(
        image=image,
        uri=None if image else _find_uri_column(schema, shard.uri),
        name=next((name for name in _ID_COLUMNS if name in schema.names), None),
        path=f"{image}.path" if image and _has_field(schema, image, "path") else None,
        source="source" if "source" in schema.names else None,
        kept=[column for column in shard.columns if column in schema.names],
        root=shard.image_root or parent,
        folder=storage.base_name(parent),
    )


def _find_uri_column(schema: pa.Schema, uri: str) -> str:
    for name in _URI_COLUMNS:
        if name in schema.names and pa.types.is_string(schema.field(name).type):
            return name
    allowed = ", ".join((*_BYTES_COLUMNS, *_URI_COLUMNS))
    raise InputError(uri, f"no image column: found {', '.join(schema.names)}, allowed {allowed}")


def _has_field(schema: pa.Schema, column: str, name: str) -> bool:
    kind = schema.field(column).type
    return pa.types.is_struct(kind) and kind.get_field_index(name) >= 0


def _build_row(values: dict[str, Any], number: int, layout: _Layout, shard: Shard) -> Row:
    name = _read_name(values, layout)
    row = build_row(
        image_id=str(name) if name is not None else f"{shard.name}/{number}",
        uri=shard.uri,
        container="parquet",
        row=number,
        etag=shard.etag,
        source=str(values[layout.source]) if layout.source else layout.folder,
        payload=dump_columns(values, layout.kept),
    )
    if layout.uri:
        uri, problem = resolve_image(values[layout.uri], layout.root)
        row |= {"container": "file", "uri": uri, "row": None, "etag": None, "problem": problem}
        if name is None:
            row["image_id"] = str(values[layout.uri])
    return row


def _read_name(values: dict[str, Any], layout: _Layout) -> Any:
    """The image's own name; None if the Parquet gives it none."""
    if layout.name:
        return values.get(layout.name)
    if layout.image and layout.path:
        return (values.get(layout.image) or {}).get("path")
    return None
