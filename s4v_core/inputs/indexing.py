"""One shard -> one row per image, with what reading it back needs, and the shard's account.

Opens shards, keeps no image bytes. Nothing is dropped in silence: what cannot be read is a row
with a problem, a damage of the shard, or a count.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError, StorageError
from s4v_core.inputs import tar
from s4v_core.inputs.shards import NOT_IMAGES, SIDECARS, Shard, ending, relative_name
from s4v_core.records.schemas import index_schema
from s4v_core.storage import StoredFile, UnreachableError

INDEX_SCHEMA = index_schema("image_id")
"""Rows of the plan before they are cut into units."""

MAX_SIDECAR_BYTES = 64 << 10
ID_COLUMNS = ("image_id", "id", "key", "__key__")
BYTES_COLUMNS = ("image", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "content")
URI_COLUMNS = ("uri", "image_uri", "path", "image_path", "file_name", "url", "image")


@dataclass(slots=True)
class ShardIndex:
    """What one shard holds.

    Attributes:
        rows: Dicts with the columns of INDEX_SCHEMA, in the shard's own order.
        damages: What keeps the shard from being proven complete.
        skipped: Members that are neither image nor sidecar of one, and text-only records.
        repeated: Records that name an image again; it gets one row.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    damages: list[tar.Damage] = field(default_factory=list)
    skipped: int = 0
    repeated: int = 0

    def account(self, shard: Shard) -> dict[str, Any]:
        """The shard's line in the plan's metadata."""
        return {
            "uri": shard.uri,
            "name": shard.name,
            "kind": shard.kind,
            "images": len(self.rows),
            "skipped": self.skipped,
            "repeated": self.repeated,
            "damages": [{"kind": d.kind, "offset": d.offset} for d in self.damages],
        }


def index_shard(shard: Shard) -> ShardIndex:
    """Read a shard's structure.

    A shard that cannot be read at all is a damage too: the pass goes on without it and says so.

    Raises:
        InputError: A Parquet or JSON without a column or field that names images.
        UnreachableError: The store did not answer for as long as anybody would wait.
    """
    indexers = {
        "files": _index_files,
        "tar": _index_tar,
        "targz": _index_tar,
        "parquet": _index_parquet,
        "json": _index_json,
    }
    try:
        return indexers[shard.kind](shard)
    except UnreachableError:
        raise  # weather; the same command tries again
    except (StorageError, FileNotFoundError):
        return ShardIndex(damages=[tar.Damage("unreadable", 0)])


def _index_files(shard: Shard) -> ShardIndex:
    texts = {_split(f.uri)[0]: f for f in sorted(shard.sidecars, key=lambda f: f.uri, reverse=True)}
    index = ShardIndex()
    for file in shard.files:
        name = relative_name(file.uri, shard.uri)
        text = texts.get(_split(file.uri)[0])
        index.rows.append(
            _row(
                image_id=name,
                uri=file.uri,
                container="file",
                length=file.size,
                etag=file.etag,
                source=name.split("/")[0] if "/" in name else storage.base_name(shard.uri),
                payload=_sidecar_of(text) if text else None,
            )
        )
    return index


def _index_tar(shard: Shard) -> ShardIndex:
    with storage.open_to_read(shard.uri) as file:
        if shard.kind == "targz":
            found = tar.index_tar_gz(file, _is_sidecar)
        else:
            found = tar.index_tar(file, shard.size, _is_sidecar)
    sidecars = _tar_sidecars(found.members)
    index = ShardIndex(damages=found.damages)
    source = storage.base_name(storage.parent(shard.uri))
    keys: set[str] = set()
    for number, member in enumerate(found.members):
        if _hidden(member.name):
            continue
        key, end = _split(member.name)
        if end in NOT_IMAGES:
            index.skipped += end not in SIDECARS
            continue
        index.rows.append(
            _row(
                # Two members of one key both get rows; the later one carries its number.
                image_id=f"{shard.name}/{key}" + (f"#{number}" if key in keys else ""),
                uri=shard.uri,
                container=shard.kind,
                offset=member.offset,
                length=member.length,
                etag=shard.etag,
                source=source,
                payload=sidecars.get(key),
                problem=None if member.whole else "truncated",
            )
        )
        keys.add(key)
    return index


def _is_sidecar(name: str, length: int) -> bool:
    return ending(name) in SIDECARS and length <= MAX_SIDECAR_BYTES


def _tar_sidecars(members: list[tar.Member]) -> dict[str, str]:
    """Text of the `.json` (else `.txt`) member of each key."""
    found: dict[str, str] = {}
    for member in members:
        if member.data is None or _hidden(member.name):
            continue
        key, end = _split(member.name)
        if end == "json" or key not in found:
            found[key] = member.data.decode("utf-8", "replace")
    return found


def _index_parquet(shard: Shard) -> ShardIndex:
    index = ShardIndex()
    with storage.open_to_read(shard.uri) as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid:
            index.damages.append(tar.Damage("unreadable", 0))
            return index
        schema = table.schema_arrow
        image = bytes_column(schema)
        uri = None if image else _uri_column(schema, shard.uri)
        # Of the image itself nothing is read here, only what names it.
        name = next((n for n in ID_COLUMNS if n in schema.names), None)
        path = f"{image}.path" if image and _has_field(schema, image, "path") else None
        source = "source" if "source" in schema.names else None
        kept = [c for c in shard.columns if c in schema.names]
        columns = [c for c in dict.fromkeys((name, uri, path, source, *kept)) if c]
        root = shard.image_root or storage.parent(shard.uri)
        folder = storage.base_name(storage.parent(shard.uri))
        number = 0
        for batch in table.iter_batches(columns=columns):
            for values in batch.to_pylist():
                inner = values.get(image) if image else None
                shown = values.get(name) if name else (inner or {}).get("path") if path else None
                row = _row(
                    image_id=str(shown) if shown is not None else f"{shard.name}/{number}",
                    uri=shard.uri,
                    container="parquet",
                    row=number,
                    etag=shard.etag,
                    source=str(values[source]) if source else folder,
                    payload=_kept(values, kept),
                )
                if uri:
                    place, problem = _resolve(values[uri], root)
                    row |= {"container": "file", "uri": place, "row": None, "etag": None}
                    row["problem"] = problem
                    if shown is None:
                        row["image_id"] = str(values[uri])
                index.rows.append(row)
                number += 1
    return index


def bytes_column(schema: pa.Schema) -> str | None:
    """The column of a Parquet that holds encoded images: binary, or the struct of HF datasets."""
    for name in BYTES_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
            if _has_field(schema, name, "bytes"):
                return name
    return None


def _has_field(schema: pa.Schema, column: str, name: str) -> bool:
    kind = schema.field(column).type
    return pa.types.is_struct(kind) and kind.get_field_index(name) >= 0


def _uri_column(schema: pa.Schema, uri: str) -> str:
    for name in URI_COLUMNS:
        if name in schema.names and pa.types.is_string(schema.field(name).type):
            return name
    allowed = ", ".join((*BYTES_COLUMNS, *URI_COLUMNS))
    raise InputError(uri, f"no image column: found {', '.join(schema.names)}, allowed {allowed}")


def _index_json(shard: Shard) -> ShardIndex:
    index = ShardIndex()
    root = shard.image_root or storage.parent(shard.uri)
    seen: set[str] = set()
    for number, record in enumerate(read_records(shard.uri)):
        image = record.get("image") if isinstance(record, dict) else None
        if image is None:
            index.skipped += 1
            continue
        if not isinstance(image, str):
            raise InputError(shard.uri, f"record {number}: image: found {image!r}, allowed a path")
        if image in seen:
            index.repeated += 1
            continue
        seen.add(image)
        place, problem = _resolve(image, root)
        source = image.split("/")[0] if "/" in image else storage.base_name(root)
        index.rows.append(
            _row(
                image_id=image,
                uri=place,
                container="file",
                source=source,
                payload=_kept(record, shard.columns),
                problem=problem,
            )
        )
    return index


def read_records(uri: str) -> Iterator[Any]:
    """Records of a JSON array or of JSON Lines, one at a time: the released file is 1.5 GB."""
    lines = uri.endswith(".jsonl")
    with storage.open_to_read(uri) as file:
        try:
            yield from ijson.items(file, "" if lines else "item", multiple_values=lines)
        except ijson.JSONError as error:
            raise InputError(uri, f"not a JSON array of records: {error}") from None


def _resolve(image: Any, root: str) -> tuple[str, str | None]:
    """Where an image lies that a record names, and why it may not be read, if so."""
    if not isinstance(image, str) or not image:
        return "", "not_found"
    if "://" in image:
        return image, None
    if image.startswith("/") or "\\" in image or ".." in image.split("/"):
        return image, "unsafe_path"
    return storage.join(storage.absolute(root), image), None


def _kept(values: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    found = {name: values[name] for name in columns if values.get(name) is not None}
    return json.dumps(found, ensure_ascii=False, default=str) if found else None


def _row(**values: Any) -> dict[str, Any]:
    return dict.fromkeys(INDEX_SCHEMA.names) | values


def _split(name: str) -> tuple[str, str]:
    """A member's key, and its last ending (`sa_1.2.jpg` -> `sa_1.2`, `jpg`; `.hidden` has none)."""
    end = ending(name)
    return name[: -len(end) - 1] if end else name, end


def _hidden(name: str) -> bool:
    """macOS archives carry `._x.jpg` beside `x.jpg`: attributes, no image."""
    return "._" in name and storage.base_name(name).startswith("._")


def _sidecar_of(file: StoredFile) -> str | None:
    """Loose sidecars are named, not read: one request per image would double the pass."""
    return json.dumps({"uri": file.uri})
