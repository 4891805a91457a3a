"""Reads the encoded images of one unit, with as few requests as their container allows.

What belongs to one place becomes the reason of its images (storage.REASONS). An error of a whole
store is raised, and the unit stays undone.
"""

import contextvars
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.inputs.parquet_images import read_parquet_rows
from s4v_core.inputs.unpacking import Unpacked, name_compression
from s4v_core.inputs.web_images import fetch_images
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.inputs.zip_shards import read_zip_rows
from s4v_core.storage import NoCredentialsError, PlaceError, SourceChangedError

_MAX_GAP_BYTES = 1 << 20
"""Largest gap in bytes between two images that one request still covers."""

_FILE_READS = 16
"""Number of loose files that are read at the same time, because each is a round trip."""


_WEB = WebPolicy()


def read_images(
    rows: Sequence[dict[str, Any]], max_bytes: int | None = None, web: WebPolicy = _WEB
) -> list[bytes | str]:
    """Return for each plan row (`plan_schema`), in order, the image's bytes or the reason for none.

    Args:
        max_bytes: A larger image is refused as `file_too_big`, before it is read if its size is
            known; None sets no limit, but that of `web`.
        web: How URLs are fetched.

    Raises:
        StorageError: A store does not answer, or fails as a whole.
    """
    found: list[bytes | str] = [row["problem"] or "not_found" for row in rows]
    groups: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        if row["problem"] is not None:
            continue
        if max_bytes is not None and (row["length"] or 0) > max_bytes:
            found[at] = "file_too_big"
            continue
        place = "" if row["container"] == "file" else row["uri"]
        groups.setdefault((row["container"], place), []).append(at)
    for (container, uri), places in groups.items():
        members = [rows[at] for at in places]
        images: Sequence[bytes | str]
        if container == "file":
            images = _read_files(members, max_bytes, web)
        else:
            images = _read_shard(uri, _READERS[container], members)
        for at, image in zip(places, images, strict=True):
            found[at] = _check_size(image, max_bytes)
    return found


def _check_size(image: bytes | str, max_bytes: int | None) -> bytes | str:
    is_too_big = max_bytes is not None and isinstance(image, bytes) and len(image) > max_bytes
    return "file_too_big" if is_too_big else image


def _read_shard(
    uri: str,
    read: Callable[[list[dict[str, Any]]], Sequence[bytes | str]],
    rows: list[dict[str, Any]],
) -> Sequence[bytes | str]:
    """Read images of one shard; a problem of the shard is the reason of each."""
    try:
        return read(rows)
    except FileNotFoundError:
        return ["not_found"] * len(rows)
    except PlaceError as error:
        return [error.reason] * len(rows)
    except (pa.ArrowException, OSError) as error:
        if _is_damage(error):
            return ["unreadable"] * len(rows)
        raise StorageError(uri, f"{type(error).__name__}: {error}") from error


def _is_damage(error: Exception) -> bool:
    """Whether an error while a Parquet is read is one of its content: Arrow's own errors have no
    number, and those of the file below have one."""
    return not isinstance(error, OSError) or error.errno is None


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
    except (FileNotFoundError, PlaceError):
        return None


def _read_files(
    rows: list[dict[str, Any]], max_bytes: int | None, web: WebPolicy
) -> list[bytes | str]:
    """Read files, each from its own place: those of web servers, and those of stores."""
    found: dict[int, bytes | str] = {}
    pages = [at for at, row in enumerate(rows) if _is_page(row["uri"])]
    if pages:
        bodies = fetch_images([rows[at]["uri"] for at in pages], web, max_bytes)
        found |= dict(zip(pages, bodies, strict=True))
    files = [at for at in range(len(rows)) if at not in found]
    if files:
        # The threads use copies of the context, and with it the caller's patience.
        context = contextvars.copy_context()
        with ThreadPoolExecutor(min(_FILE_READS, len(files))) as pool:
            read = pool.map(lambda at: context.copy().run(_read_file, rows[at], max_bytes), files)
            found |= dict(zip(files, _judge_locked(list(read)), strict=True))
    return [found[at] for at in range(len(rows))]


def _judge_locked(found: list[bytes | str | NoCredentialsError]) -> list[bytes | str]:
    """Files of a store without credentials: a few among others are at fault themselves; where
    there is nothing else, this machine lacks the credentials of the job."""
    locked = [one for one in found if isinstance(one, NoCredentialsError)]
    if len(locked) == len(found) > 1:
        raise locked[0]
    return ["unauthorized" if isinstance(one, NoCredentialsError) else one for one in found]


def _is_page(uri: str) -> bool:
    return uri[:8].lower().startswith(("http://", "https://"))


def _read_file(row: dict[str, Any], max_bytes: int | None) -> bytes | str | NoCredentialsError:
    try:
        return storage.read(row["uri"], row["etag"], max_bytes)
    except FileNotFoundError:
        return "not_found"
    except PlaceError as error:
        return error.reason
    except NoCredentialsError as error:
        return error


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
            found[at] = last[2] if len(last[2]) == length else "truncated"
    return found


def _read_zip(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    _check_unchanged(rows[0])
    return read_zip_rows(rows)


def _read_parquet(rows: list[dict[str, Any]]) -> Sequence[bytes | str]:
    _check_unchanged(rows[0])
    return read_parquet_rows(rows)


def _check_unchanged(row: dict[str, Any]) -> None:
    file = storage.stat(row["uri"])
    if file is not None and file.etag == row["etag"]:
        return
    with storage.open_to_read(row["uri"], block_mib=1):  # which says if it is gone, or no file
        raise SourceChangedError(row["uri"], "changed since it was indexed")


_READERS = {
    "tar": _read_tar,
    "targz": _read_packed_tar,
    "zip": _read_zip,
    "parquet": _read_parquet,
}
