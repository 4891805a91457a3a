"""Files on any fsspec URI: listing, ranged reads, and the create-only write that commits rest on.

The only module that knows fsspec. Knows nothing of what the files hold.
"""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow.fs as pa_fs
from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem

from s4v_core.errors import StorageError

PARTIAL = ".partial"
"""Ending of files that are being written on local disks; no reader takes them."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One object of a store.

    Attributes:
        uri: Where it is, as `read` takes it.
        size: Bytes.
        etag: Changes when the content does: the store's own tag, else the time of modification.
    """

    uri: str
    size: int
    etag: str


class SourceChangedError(StorageError):
    """An object that is no longer the one that was listed."""


def join(uri: str, *names: str) -> str:
    """`uri` with `names` below it."""
    return "/".join([uri.rstrip("/") or "/", *names]).replace("//", "/", 1 if uri == "/" else 0)


def base_name(uri: str) -> str:
    """Last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def parent(uri: str) -> str:
    """The folder of a URI."""
    return uri.rstrip("/").rpartition("/")[0] or ("/" if uri.startswith("/") else ".")


def absolute(uri: str) -> str:
    """The same place named so that every node understands it; local paths become absolute."""
    fs, path = _locate(uri)
    return str(path) if isinstance(fs, LocalFileSystem) else uri.rstrip("/")


def is_local(uri: str) -> bool:
    """Whether `uri` lies on a disk of this machine (or one that is mounted like it)."""
    return isinstance(_locate(uri)[0], LocalFileSystem)


def exists(uri: str) -> bool:
    """Whether a file or folder is there, asked of the store and not of a cache."""
    fs, path = _fresh(uri)
    with _told(uri):
        return bool(fs.exists(path))


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder (on object stores: a prefix with something below it)."""
    fs, path = _fresh(uri)
    with _told(uri):
        return bool(fs.isdir(path))


def stat(uri: str) -> StoredFile | None:
    """The file at `uri`, or None where there is none."""
    fs, path = _fresh(uri)
    with _told(uri):
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return None
    return None if info["type"] == "directory" else _stored(fs, info)


def list_files(folder: str) -> list[StoredFile]:
    """All files below `folder`, sorted by URI; names that start with a dot are left out."""
    fs, path = _fresh(folder)
    with _told(folder):
        found = fs.find(path, detail=True)
    files = [_stored(fs, i) for n, i in found.items() if not _is_hidden(n[len(path) :])]
    return sorted(files, key=lambda file: file.uri)


def expand(pattern: str) -> list[str]:
    """The URIs that a pattern stands for: braces (`{0000..0003}`) first, then globs (`*`, `**`)."""
    uris: list[str] = []
    for one in braceexpand(pattern) if "{" in pattern else [pattern]:
        if not any(mark in one for mark in "*?["):
            uris.append(one)
            continue
        fs, path = _fresh(one)
        with _told(one):
            uris += sorted(fs.unstrip_protocol(name) for name in fs.glob(path))
    return uris


def read(uri: str) -> bytes:
    """The whole file in one request.

    Raises:
        FileNotFoundError: There is none.
        StorageError: The store does not answer.
    """
    fs, path = _locate(uri)
    with _told(uri):
        return bytes(fs.cat_file(path))


def read_range(uri: str, offset: int, length: int, etag: str | None = None) -> bytes:
    """`length` bytes from `offset` on, in one request.

    Raises:
        FileNotFoundError: There is no such file.
        SourceChangedError: The file is not the one with this `etag`, or ends too early.
    """
    fs, path = _locate(uri)
    with _told(uri):
        if hasattr(fs, "call_s3"):
            data = _get_s3_range(fs, uri, path, offset, length, etag)
        else:
            if etag is not None and _stored(fs, fs.info(path)).etag != etag:
                raise SourceChangedError(uri, "changed since it was indexed")
            data = bytes(fs.cat_file(path, start=offset, end=offset + length))
    if len(data) != length:
        raise SourceChangedError(uri, f"found {len(data)} of {length} bytes from {offset} on")
    return data


@contextmanager
def open_to_read(uri: str, block_mib: int = 8) -> Iterator[BinaryIO]:
    """A seekable file that reads ahead in large blocks: for one pass from front to back."""
    fs, path = _locate(uri)
    with _told(uri):
        file = fs.open(path, "rb", block_size=block_mib << 20, cache_type="readahead")
    with file:
        yield file


def create(uri: str, data: bytes) -> bool:
    """Write a whole file that must not exist yet; readers see all of it or nothing.

    Returns:
        Whether this call wrote it; False where somebody else had.

    Raises:
        StorageError: It is not there afterwards.
    """
    fs, path = _locate(uri)
    with _told(uri, writing=True):
        if isinstance(fs, LocalFileSystem):
            return _create_local(Path(path), data)
        try:
            fs.pipe_file(path, data, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError:
            # A lost answer, or a store that names its refusal differently: what lies there decides.
            if exists(uri):
                return False
            raise


def replace(uri: str, data: bytes) -> None:
    """Write a whole file, in place of what was there; readers see the old or the new one."""
    fs, path = _locate(uri)
    with _told(uri, writing=True):
        if isinstance(fs, LocalFileSystem):
            partial = _write_partial(Path(path), data)
            partial.replace(path)
        else:
            fs.pipe_file(path, data)


def replace_json(uri: str, value: dict[str, Any]) -> None:
    """`replace` with JSON for people to read."""
    replace(uri, json.dumps(value, indent=2, ensure_ascii=False).encode())


def upload(file: BinaryIO, uri: str) -> None:
    """Copy an open file to `uri`, in place of what was there; its size does not matter."""
    fs, path = _locate(uri)
    with _told(uri, writing=True):
        if isinstance(fs, LocalFileSystem):
            partial = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(8)}{PARTIAL}")
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as sink:
                shutil.copyfileobj(file, sink)
            partial.replace(path)
        else:
            with fs.open(path, "wb") as sink:
                shutil.copyfileobj(file, sink, 8 << 20)


def local_copy(uri: str, folder: Path) -> Path:
    """The file itself where it lies on a local disk, else a copy in `folder`."""
    fs, path = _locate(uri)
    if isinstance(fs, LocalFileSystem):
        return Path(path)
    target = folder / base_name(uri)
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{secrets.token_hex(8)}{PARTIAL}"  # two processes may do this at once
        with _told(uri):
            fs.get_file(path, str(partial))
        partial.replace(target)
    return target


def remove(uri: str) -> None:
    """Take away a file, or a folder with all that is below it; what is not there is no error."""
    fs, path = _fresh(uri)
    with _told(uri):
        try:
            fs.rm(path, recursive=True)
        except FileNotFoundError:
            return


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """The store as pyarrow takes it, and the path of `uri` in it."""
    fs, path = _locate(uri)
    handler: Any = pa_fs.FSSpecHandler
    return pa_fs.PyFileSystem(handler(fs)), path


def remove_stale_partials(folder: str, older_than_s: float = 3600) -> None:
    """Take away what a killed writer left on a local disk; object stores leave nothing behind."""
    if not is_local(folder):
        return
    for file in Path(_locate(folder)[1]).glob(f".*{PARTIAL}"):
        try:
            if time.time() - file.stat().st_mtime > older_than_s:
                file.unlink()
        except FileNotFoundError:  # its writer was alive after all
            continue


def _locate(uri: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:  # unknown scheme, or its package is not installed
        raise StorageError(uri, str(error)) from None
    return fs, path


def _fresh(uri: str) -> tuple[Any, str]:
    fs, path = _locate(uri)
    fs.invalidate_cache()
    return fs, path


@contextmanager
def _told(uri: str, writing: bool = False) -> Iterator[None]:
    """A store's failures, whatever their class, as StorageError.

    Absence stays as it is, but for who writes: it is the store that refuses a folder then.
    """
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        if not writing:
            raise
        raise StorageError(uri, f"{type(error).__name__}: {error}") from error
    except Exception as error:
        raise StorageError(uri, f"{type(error).__name__}: {error}") from error


def _stored(fs: Any, info: dict[str, Any]) -> StoredFile:
    etag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or ""
    name = info["name"]
    uri = name if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(name)
    return StoredFile(uri, int(info["size"]), str(etag).strip('"'))


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _get_s3_range(
    fs: Any, uri: str, path: str, offset: int, length: int, etag: str | None
) -> bytes:
    bucket, key, _ = fs.split_path(path)
    pinned = {"IfMatch": etag} if etag else {}
    bytes_range = f"bytes={offset}-{offset + length - 1}"

    async def get() -> bytes:
        answer = await fs._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=bytes_range, **pinned
        )
        return bytes(await answer["Body"].read())

    try:
        return fsspec.asyn.sync(fs.loop, get)  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL and etag:  # s3fs's translation of 412
            raise SourceChangedError(uri, "changed since it was indexed") from None
        raise


def _create_local(path: Path, data: bytes) -> bool:
    if path.exists():
        return False
    partial = _write_partial(path, data)
    try:
        os.link(partial, path)  # fails where the name exists: one winner
        return True
    except FileExistsError:
        return False
    except PermissionError:  # a file system without hard links
        partial.replace(path)
        return True
    finally:
        partial.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _write_partial(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(8)}{PARTIAL}"
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
