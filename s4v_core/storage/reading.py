"""Looking at a store and reading from it: listings, whole files, exact ranges of pinned objects."""

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from braceexpand import braceexpand
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from s4v_core.errors import StorageError
from s4v_core.storage.access import UnreachableError, awaited, call, fresh, locate
from s4v_core.storage.places import base_name
from s4v_core.storage.writing import PARTIAL

SLOWEST_BYTES_PER_S = 256 << 10
"""A read that is slower is given up and tried again."""

SHORTEST_LIMIT_S = 30.0
UNKNOWN_LENGTH = 64 << 20
"""Counted for whole files, whose length nobody asked for: more than any image may have."""

LOCAL_BLOCK = 64 << 10
"""Bytes of a local file that are read at once."""

LARGEST_GAP = 1 << 20
"""Bytes of a local file that are rather read than left out."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One object of a store.

    Attributes:
        uri: Where it is, as `read` takes it.
        size: Bytes.
        etag: Changes when the content does: the store's own tag, else the time of modification.
        modified_s: When it was written, seconds since 1970; 0 where the store does not say.
    """

    uri: str
    size: int
    etag: str
    modified_s: float = 0.0


class SourceChangedError(StorageError):
    """An object that is no longer the one that was listed."""


def exists(uri: str) -> bool:
    """Whether a file or folder is there, asked of the store and not of a cache."""
    fs, path = fresh(uri)
    return call(uri, lambda: bool(fs.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder (on object stores: a prefix with something below it)."""
    fs, path = fresh(uri)
    return call(uri, lambda: bool(fs.isdir(path)))


def refusal(folder: str) -> str | None:
    """Why nothing can be kept in `folder`, as far as one listing shows: no such bucket, no right.

    A folder that is not there yet is no reason, nor is a local one.

    Raises:
        UnreachableError: The store does not answer.
    """
    fs, path = fresh(folder)
    if not hasattr(fs, "call_s3"):
        return None
    bucket, key, _ = fs.split_path(path)
    about = {"Bucket": bucket, "Prefix": key, "MaxKeys": 1}
    try:
        call(folder, lambda: fs.call_s3("list_objects_v2", **about), writing=True)
    except UnreachableError:
        raise
    except StorageError as error:
        return error.problem
    return None


def stat(uri: str) -> StoredFile | None:
    """The file at `uri`, or None where there is none."""
    fs, path = fresh(uri)
    try:
        info = call(uri, lambda: fs.info(path))
    except FileNotFoundError:
        return None
    return None if info["type"] == "directory" else _stored(fs, info)


def list_files(folder: str) -> list[StoredFile]:
    """All files below `folder`, sorted by URI; names that start with a dot are left out."""
    fs, path = fresh(folder)
    found = call(folder, lambda: fs.find(path, detail=True))
    files = [_stored(fs, i) for n, i in found.items() if not _is_hidden(n[len(path) :])]
    return sorted(files, key=lambda file: file.uri)


def list_folder(folder: str) -> list[StoredFile]:
    """The files right in `folder`, sorted by URI; names that start with a dot are left out.

    Raises:
        FileNotFoundError: There is no such folder.
        StorageError: The store refuses or does not answer.
    """
    fs, path = fresh(folder)
    found = call(folder, lambda: fs.ls(path, detail=True))
    files = [
        _stored(fs, info)
        for info in found
        # A store may answer with the file itself where `folder` is one.
        if info["type"] == "file" and info["name"].strip("/") != path.strip("/")
    ]
    return sorted((f for f in files if not base_name(f.uri).startswith(".")), key=lambda f: f.uri)


def expand(pattern: str) -> list[str]:
    """The URIs that a pattern stands for: braces (`{0000..0003}`) first, then globs (`*`, `**`)."""
    uris: list[str] = []
    for one in braceexpand(pattern) if "{" in pattern else [pattern]:
        if not any(mark in one for mark in "*?["):
            uris.append(one)
            continue
        uris += _globbed(one)
    return uris


def _globbed(pattern: str) -> list[str]:
    fs, path = fresh(pattern)
    found = call(pattern, lambda: fs.glob(path))
    return sorted(fs.unstrip_protocol(name) for name in found)


def read(uri: str, etag: str | None = None) -> bytes:
    """The whole file in one request.

    Raises:
        FileNotFoundError: There is none.
        SourceChangedError: The file is not the one with this `etag`.
        StorageError: The store does not answer.
    """
    fs, path = locate(uri)

    def attempt() -> bytes:
        if hasattr(fs, "call_s3"):
            return _get_s3(fs, uri, path, None, _limit_s(UNKNOWN_LENGTH), etag)
        _check_tag(fs, uri, path, etag)
        if isinstance(fs, AsyncFileSystem):
            return bytes(awaited(fs, fs._cat_file, path, limit_s=_limit_s(UNKNOWN_LENGTH)))
        return bytes(fs.cat_file(path))

    return call(uri, attempt)


def read_range(uri: str, offset: int, length: int, etag: str | None = None) -> bytes:
    """`length` bytes from `offset` on, in one request.

    Raises:
        FileNotFoundError: There is no such file.
        SourceChangedError: The file is not the one with this `etag`, or ends too early.
        StorageError: The store does not answer.
    """
    fs, path = locate(uri)

    def attempt() -> bytes:
        if hasattr(fs, "call_s3"):
            span = f"bytes={offset}-{offset + length - 1}"
            return _get_s3(fs, uri, path, span, _limit_s(length), etag)
        _check_tag(fs, uri, path, etag)
        return bytes(fs.cat_file(path, start=offset, end=offset + length))

    data = call(uri, attempt)
    if len(data) != length:
        raise SourceChangedError(uri, f"found {len(data)} of {length} bytes from {offset} on")
    return data


def read_tail(uri: str, length: int) -> bytes:
    """The last `length` bytes of a file, or all of a shorter one, in one request.

    Raises:
        FileNotFoundError: There is none.
        StorageError: The store does not answer.
    """
    fs, path = locate(uri)
    if not isinstance(fs, LocalFileSystem):
        return call(uri, lambda: bytes(fs.cat_file(path, start=-length)))

    def attempt() -> bytes:
        with Path(path).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - length, 0))
            return file.read()

    return call(uri, attempt)


@contextmanager
def open_to_read(uri: str, block_mib: int = 8) -> Iterator[BinaryIO]:
    """A seekable file that reads ahead in large blocks: for one pass from front to back."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with call(uri, lambda: io.BufferedReader(_LocalFile(path), LOCAL_BLOCK)) as local:
            yield local
        return
    ahead = block_mib << 20
    with call(uri, lambda: fs.open(path, "rb", block_size=ahead, cache_type="readahead")) as file:
        yield cast(BinaryIO, _PatientFile(uri, file))


class _LocalFile(io.FileIO):
    """Reads what lies before the next place, instead of leaving it out. The kernel fetches ahead
    for those who read without gaps; the headers of a tar shard would each wait for the disk, and
    to ask for what lies ahead (`posix_fadvise`) took longer than to read it
    (tests/perf/RESULTS.md: Indexing)."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._left_out = memoryview(bytearray(LARGEST_GAP))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == os.SEEK_SET and 0 < (gap := offset - self.tell()) <= LARGEST_GAP:
            self.readinto(self._left_out[:gap])
        return super().seek(offset, whence)


class _PatientFile(io.RawIOBase):
    """Reads of an open file, each of them tried again after weather."""

    def __init__(self, uri: str, file: Any) -> None:
        self._uri, self._file = uri, file

    def read(self, size: int = -1, /) -> bytes:
        start = self._file.tell()

        def attempt() -> bytes:
            self._file.seek(start)
            return bytes(self._file.read(size))

        return call(self._uri, attempt)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def local_copy(uri: str, folder: Path) -> Path:
    """The file itself where it lies on a local disk, else a copy in `folder`."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        return Path(path)
    target = folder / base_name(uri)
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{secrets.token_hex(8)}{PARTIAL}"  # two processes may do this at once
        call(uri, lambda: fs.get_file(path, str(partial)))
        partial.replace(target)
    return target


def _limit_s(length: int) -> float:
    return SHORTEST_LIMIT_S + length / SLOWEST_BYTES_PER_S


def _stored(fs: Any, info: dict[str, Any]) -> StoredFile:
    etag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or ""
    name = info["name"]
    uri = name if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(name)
    written = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    modified_s = written.timestamp() if isinstance(written, datetime) else float(written)
    return StoredFile(uri, int(info["size"]), str(etag).strip('"'), modified_s)


def _check_tag(fs: Any, uri: str, path: str, etag: str | None) -> None:
    if etag and _stored(fs, fs.info(path)).etag != etag:
        raise SourceChangedError(uri, "changed since it was indexed")


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _get_s3(
    fs: Any, uri: str, path: str, span: str | None, limit_s: float, etag: str | None
) -> bytes:
    """One GET that the store itself refuses if the object is another one by now."""
    bucket, key, _ = fs.split_path(path)
    about = {"Range": span} if span else {}
    about |= {"IfMatch": etag} if etag else {}

    async def get() -> bytes:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **about)
        try:
            return bytes(await answer["Body"].read())
        finally:
            # A body that broke off keeps its connection; after ten of them nobody gets one.
            answer["Body"].close()

    try:
        return awaited(fs, get, limit_s=limit_s)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL and (etag or span):  # s3fs's translation of 412 and 416
            raise SourceChangedError(uri, "changed since it was indexed") from None
        raise
