"""Reads the encoded images of one unit, with as few requests as their container allows.

A permanent problem of an image becomes its reason. A transient error of the store is raised, and
the unit stays undone.
"""

import contextvars
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from s4v_core import storage
from s4v_core.inputs.parquet_images import read_parquet_rows
from s4v_core.inputs.unpacking import Unpacked, name_compression
from s4v_core.inputs.zip_shards import read_zip_rows
from s4v_core.storage import SourceChangedError

_MAX_GAP_BYTES = 1 << 20
"""Largest gap in bytes between two images that one request still covers."""

_FILE_READS = 16
"""Number of loose files that are read at the same time, because each is a round trip."""


def read_images(rows: Sequence[dict[str, Any]]) -> list[bytes | str]:
    """Return for each plan row (PLAN_SCHEMA), in order, the image's bytes or the reason for none.

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
    """The text of an image's sidecar. The plan only names loose sidecars; they are read here."""
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

    # The threads use copies of the context, and with it the caller's patience.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(min(_FILE_READS, len(rows))) as pool:
        return list(pool.map(lambda row: context.copy().run(read, row), rows))


def _read_tar(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    """Read tar members. Those of a unit lie close together, so few ranged reads cover them."""
    found: list[bytes | str] = [b""] * len(rows)
    for places in _group_neighbours(rows):
        start = rows[places[0]]["offset"]
        end = max(rows[at]["offset"] + rows[at]["length"] for at in places)
        if end == start:
            continue
        data = memoryview(storage.read_range(rows[0]["uri"], start, end - start, rows[0]["etag"]))
        for at in places:
            first = rows[at]["offset"] - start
            found[at] = bytes(data[first : first + rows[at]["length"]])
    return found


def _group_neighbours(rows: list[dict[str, Any]]) -> list[list[int]]:
    """Indexes of `rows` in the order of their offsets, split at gaps above _MAX_GAP_BYTES."""
    order = sorted(range(len(rows)), key=lambda at: int(rows[at]["offset"]))
    groups: list[list[int]] = []
    end = 0
    for at in order:
        if not groups or rows[at]["offset"] - end > _MAX_GAP_BYTES:
            groups.append([])
        groups[-1].append(at)
        end = max(end, rows[at]["offset"] + rows[at]["length"])
    return groups


def _read_packed_tar(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    """Read members of a compressed tar, which has to be unpacked from its start once per unit."""
    _check_unchanged(rows[0])
    found: list[bytes | str] = ["not_found"] * len(rows)
    with storage.open_to_read(rows[0]["uri"]) as file:
        compression = name_compression(file.read(8))
        if compression is None:
            raise SourceChangedError(rows[0]["uri"], "is no longer compressed")
        file.seek(0)
        stream, last = Unpacked(file, compression), (-1, 0, b"")
        # Links share the place of another member.
        for at in sorted(range(len(rows)), key=lambda at: int(rows[at]["offset"])):
            offset, length = rows[at]["offset"], rows[at]["length"]
            if last[:2] != (offset, length):
                stream.seek(offset)
                last = (offset, length, stream.read(length))
            found[at] = last[2]
    return found


def _read_zip(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    _check_unchanged(rows[0])
    return read_zip_rows(rows)


def _read_parquet(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    _check_unchanged(rows[0])
    return read_parquet_rows(rows)


def _check_unchanged(row: dict[str, Any]) -> None:
    file = storage.stat(row["uri"])
    if file is None or file.etag != row["etag"]:
        raise SourceChangedError(row["uri"], "changed since it was indexed")


_READERS = {
    "file": _read_files,
    "tar": _read_tar,
    "targz": _read_packed_tar,
    "zip": _read_zip,
    "parquet": _read_parquet,
}
