"""Reading from a store: whole files, exact byte ranges and streams. A read that names an etag
fails if the object has been replaced."""

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from s4v_core.storage.access import call_store, locate, run_async
from s4v_core.storage.listing import describe_file
from s4v_core.storage.local_files import LocalFile, open_regular
from s4v_core.storage.reasons import PlaceError, SourceChangedError
from s4v_core.storage.uris import base_name, is_web
from s4v_core.storage.web_files import WebFile, get_body
from s4v_core.storage.writing import PARTIAL

SHORTEST_LIMIT_S = 30.0
"""Time limit in seconds of a read of no bytes; each byte adds to it."""

_SLOWEST_BYTES_PER_S = 256 << 10
"""A read that is slower is stopped and tried again."""

_UNKNOWN_LENGTH = 64 << 20
"""Assumed size in bytes of a whole-file read, whose length is unknown: more than any image has."""

_LOCAL_BLOCK = 64 << 10
"""Bytes of a local file that one system call reads."""


def read(uri: str, etag: str | None = None, max_bytes: int | None = None) -> bytes:
    """Read a whole file in one request.

    Args:
        max_bytes: A larger file is refused before its content is read.

    Raises:
        FileNotFoundError: There is no such file.
        SourceChangedError: The file is not the one with this `etag`.
        PlaceError: The file cannot be read, or is larger than `max_bytes`.
        StorageError: The store does not answer.
    """
    fs, path = locate(uri)

    def attempt() -> bytes:
        if hasattr(fs, "call_s3"):
            return _get_s3(fs, uri, path, None, _limit_s(_UNKNOWN_LENGTH), etag, max_bytes)
        if is_web(uri):
            limit_s = _limit_s(_UNKNOWN_LENGTH)
            return run_async(fs, get_body, fs, path, None, etag, max_bytes, limit_s=limit_s)
        if isinstance(fs, LocalFileSystem):
            return _read_local(fs, uri, path, None, etag, max_bytes)
        _check_etag(fs, uri, path, etag)
        if max_bytes is not None:
            _check_size(uri, fs.info(path)["size"], max_bytes)
        if isinstance(fs, AsyncFileSystem):
            return bytes(run_async(fs, fs._cat_file, path, limit_s=_limit_s(_UNKNOWN_LENGTH)))
        return bytes(fs.cat_file(path))

    return call_store(uri, attempt)


def read_range(uri: str, offset: int, length: int, etag: str | None = None) -> bytes:
    """Read `length` bytes from `offset` on, in one request.

    Raises:
        FileNotFoundError: There is no such file.
        SourceChangedError: The file is not the one with this `etag`, or ends too early.
        PlaceError: The file cannot be read.
        StorageError: The store does not answer.
    """
    fs, path = locate(uri)

    def attempt() -> bytes:
        if hasattr(fs, "call_s3"):
            byte_range = f"bytes={offset}-{offset + length - 1}"
            return _get_s3(fs, uri, path, byte_range, _limit_s(length), etag)
        if is_web(uri):
            part, limit_s = (offset, length), _limit_s(offset + length)
            return run_async(fs, get_body, fs, path, part, etag, None, limit_s=limit_s)
        if isinstance(fs, LocalFileSystem):
            return _read_local(fs, uri, path, (offset, length), etag, None)
        _check_etag(fs, uri, path, etag)
        return bytes(fs.cat_file(path, start=offset, end=offset + length))

    data = call_store(uri, attempt)
    if len(data) != length:
        raise SourceChangedError(uri, f"found {len(data)} of {length} bytes from {offset} on")
    return data


def read_tail(uri: str, length: int) -> bytes:
    """Read the last `length` bytes of a file, or all of a shorter one, in one request.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The store does not answer.
    """
    fs, path = locate(uri)
    if not isinstance(fs, LocalFileSystem):
        return call_store(uri, lambda: bytes(fs.cat_file(path, start=-length))[-length:])

    def attempt() -> bytes:
        with open(path, "rb", opener=open_regular) as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - length, 0))
            return file.read()

    return call_store(uri, attempt)


@contextmanager
def open_to_read(uri: str, block_mib: int = 8) -> Iterator[BinaryIO]:
    """Open a seekable file that reads ahead in large blocks, for one pass from front to back."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with call_store(uri, lambda: io.BufferedReader(LocalFile(path), _LOCAL_BLOCK)) as local:
            yield local
        return
    ahead = block_mib << 20
    if is_web(uri):
        with io.BufferedReader(WebFile(uri, fs, path, ahead), _LOCAL_BLOCK) as page:
            yield page
        return
    with call_store(
        uri, lambda: fs.open(path, "rb", block_size=ahead, cache_type="readahead")
    ) as file:
        yield cast(BinaryIO, _RetryingFile(uri, file))


class _RetryingFile(io.RawIOBase):
    """An open file of a store; each read is tried again after a transient error."""

    def __init__(self, uri: str, file: Any) -> None:
        self._uri, self._file = uri, file

    def read(self, size: int = -1, /) -> bytes:
        start = self._file.tell()

        def attempt() -> bytes:
            self._file.seek(start)
            return bytes(self._file.read(size))

        return call_store(self._uri, attempt)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def local_copy(uri: str, folder: Path) -> Path:
    """The path of the file itself if it lies on a local disk, else of a copy made in `folder`."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        return Path(path)
    target = folder / base_name(uri)
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Two processes may copy at once, so each writes a partial file of its own.
        partial = folder / f".{secrets.token_hex(8)}{PARTIAL}"
        call_store(uri, lambda: fs.get_file(path, str(partial)))
        partial.replace(target)
    return target


def _limit_s(length: int) -> float:
    return SHORTEST_LIMIT_S + length / _SLOWEST_BYTES_PER_S


def _read_local(
    fs: Any,
    uri: str,
    path: str,
    part: tuple[int, int] | None,
    etag: str | None,
    max_bytes: int | None,
) -> bytes:
    """Read a local file, or a part of it (offset and length)."""
    with open(path, "rb", opener=open_regular) as file:
        _check_etag(fs, uri, path, etag)
        if max_bytes is not None:
            _check_size(uri, os.fstat(file.fileno()).st_size, max_bytes)
        if part is None:
            return file.read()
        file.seek(part[0])
        return file.read(part[1])


def _check_size(uri: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise PlaceError(uri, f"found {size} bytes, allowed {max_bytes}", "file_too_big")


def _check_etag(fs: Any, uri: str, path: str, etag: str | None) -> None:
    if etag and describe_file(fs, fs.info(path)).etag != etag:
        raise SourceChangedError(uri, "changed since it was indexed")


def _get_s3(
    fs: Any,
    uri: str,
    path: str,
    byte_range: str | None,
    limit_s: float,
    etag: str | None,
    max_bytes: int | None = None,
) -> bytes:
    """Send one GET that the store itself refuses if the object has been replaced."""
    bucket, key, _ = fs.split_path(path)
    conditions = {"Range": byte_range} if byte_range else {}
    conditions |= {"IfMatch": etag} if etag else {}

    async def get() -> bytes:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **conditions)
        try:
            if max_bytes is not None:
                _check_size(uri, answer["ContentLength"], max_bytes)
            return bytes(await answer["Body"].read())
        finally:
            # A body that broke off keeps its connection; after ten of them the pool is empty.
            answer["Body"].close()

    try:
        return run_async(fs, get, limit_s=limit_s)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL and (etag or byte_range):  # s3fs: HTTP 412 and 416
            raise SourceChangedError(uri, "changed since it was indexed") from None
        raise
