"""Encoded bytes of the images of one unit, with as few requests as their container allows.

What is a fact about an image becomes its reason; what is the store's weather is raised, and the
unit stays undone.
"""

import contextvars
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.inputs.gunzip import Gunzip
from s4v_core.inputs.indexing import bytes_column
from s4v_core.storage import SourceChangedError

MAX_GAP_BYTES = 1 << 20
"""Bytes between two images that are read along rather than asked for apart."""

FILE_READS = 16
"""Loose files are read this many at a time: each is one round trip."""


def read_images(rows: Sequence[dict[str, Any]]) -> list[bytes | str]:
    """One entry per plan row (PLAN_SCHEMA), in order: the bytes, or the reason why there are none.

    Raises:
        StorageError: The store does not answer.
    """
    found: list[bytes | str] = [row["problem"] or "not_found" for row in rows]
    groups: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        if row["problem"] is None:
            place = "" if row["container"] == "file" else row["uri"]
            groups.setdefault((row["container"], place), []).append(at)
    for (container, _), places in groups.items():
        members = [rows[at] for at in places]
        try:
            images = _READERS[container](members)
        except SourceChangedError:
            images = ["source_changed"] * len(members)
        for at, image in zip(places, images, strict=True):
            found[at] = image
    return found


def read_sidecar(sidecar: str | None) -> str | None:
    """The text beside an image; loose sidecars are only named in the plan, and read here."""
    try:
        found = json.loads(sidecar or "null")
    except ValueError:
        return sidecar
    if not isinstance(found, dict) or found.keys() != {"uri"}:
        return sidecar
    try:
        return storage.read(found["uri"]).decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def _read_files(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    def read(row: dict[str, Any]) -> bytes | str:
        try:
            return storage.read(row["uri"], row["etag"])
        except FileNotFoundError:
            return "not_found"
        except SourceChangedError:
            return "source_changed"

    here = contextvars.copy_context()  # the caller's patience holds in its threads
    with ThreadPoolExecutor(min(FILE_READS, len(rows))) as pool:
        return list(pool.map(lambda row: here.copy().run(read, row), rows))


def _read_tar(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    """Members of a unit are neighbours: one ranged read covers those that lie close together."""
    found: list[bytes | str] = [b""] * len(rows)
    for places in _neighbours(rows):
        start = rows[places[0]]["offset"]
        end = max(rows[at]["offset"] + rows[at]["length"] for at in places)
        if end == start:
            continue
        data = memoryview(storage.read_range(rows[0]["uri"], start, end - start, rows[0]["etag"]))
        for at in places:
            first = rows[at]["offset"] - start
            found[at] = bytes(data[first : first + rows[at]["length"]])
    return found


def _neighbours(rows: list[dict[str, Any]]) -> list[list[int]]:
    """Places in `rows` in the order of their offsets, cut where nobody's bytes lie between."""
    order = sorted(range(len(rows)), key=lambda at: int(rows[at]["offset"]))
    groups: list[list[int]] = []
    end = 0
    for at in order:
        if not groups or rows[at]["offset"] - end > MAX_GAP_BYTES:
            groups.append([])
        groups[-1].append(at)
        end = max(end, rows[at]["offset"] + rows[at]["length"])
    return groups


def _read_tar_gz(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    """Unpacks from the front: the price of a compressed tar, once per unit."""
    _check_unchanged(rows[0])
    with storage.open_to_read(rows[0]["uri"]) as file:
        stream = Gunzip(file)
        images: list[bytes | str] = []
        for row in rows:
            stream.seek(row["offset"])
            images.append(stream.read(row["length"]))
    return images


def _read_parquet(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    """Reads the row groups that hold the unit's rows, and of them the image column alone."""
    _check_unchanged(rows[0])
    wanted = {row["row"]: at for at, row in enumerate(rows)}
    images: list[bytes | str] = ["not_found"] * len(rows)
    with storage.open_to_read(rows[0]["uri"]) as file:
        table = pq.ParquetFile(file)
        column = bytes_column(table.schema_arrow)
        assert column, "the plan names rows only of files with such a column"
        first = 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            hits = [row for row in wanted if first <= row < first + count]
            if hits:
                values = table.read_row_group(group, columns=[column])[column]
                for row in hits:
                    images[wanted[row]] = _image_bytes(values[row - first].as_py())
            first += count
    return images


def _image_bytes(value: Any) -> bytes | str:
    data = value.get("bytes") if isinstance(value, dict) else value
    return "not_found" if data is None else bytes(data)


def _check_unchanged(row: dict[str, Any]) -> None:
    file = storage.stat(row["uri"])
    if file is None or file.etag != row["etag"]:
        raise SourceChangedError(row["uri"], "changed since it was indexed")


_READERS = {
    "file": _read_files,
    "tar": _read_tar,
    "targz": _read_tar_gz,
    "parquet": _read_parquet,
}
