"""Writing whole files: create-only, which commits rely on, or replacing an earlier file."""

import errno
import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.implementations.local import LocalFileSystem

from s4v_core.failpoints import reach
from s4v_core.storage.access import call_store, locate, locate_uncached
from s4v_core.storage.listing import StoredFile, stat
from s4v_core.storage.reasons import SourceChangedError
from s4v_core.storage.uris import is_local, join

_PROBE = ".create-only"
"""Name of the file that `honours_create` writes to test a store."""

_ONE_PUT_BYTES = 5 << 30
"""Largest object that S3 takes in one request. If it is written in parts, Ceph's radosgw lets a
second writer win."""

PARTIAL = ".partial"
"""Ending of files that are being written on a local disk; readers ignore them."""


def create(uri: str, data: bytes) -> bool:
    """Write a whole file that must not exist yet; readers see all of it or nothing.

    Returns:
        Whether this call wrote the file, according to the store. False can also mean that our own
        write succeeded and its answer was lost; compare the stored content to find out.

    Raises:
        StorageError: The file does not exist afterwards.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        return call_store(uri, lambda: _create_local(Path(path), data), writing=True)
    whole = {"chunksize": _ONE_PUT_BYTES} if hasattr(fs, "call_s3") else {}

    def attempt() -> bool:
        try:
            fs.pipe_file(path, data, mode="create", **whole)
            return True
        except FileExistsError:
            return False
        except OSError:
            # Either the answer was lost, or the store reports its refusal by another error: the
            # existence of the file decides.
            fs.invalidate_cache()
            if fs.exists(path):
                return False
            raise

    return call_store(uri, attempt, writing=True)


def honours_create(folder: str) -> bool:
    """Whether the store of `folder` refuses to create a file that exists, found out by trying.

    A small file is left there, because the rights on a store may not include deletion.
    """
    if is_local(folder):
        return True
    uri = join(folder, _PROBE)
    create(uri, b"first")
    return not create(uri, b"second")


def replace(uri: str, data: bytes) -> None:
    """Write a whole file, replacing an earlier one; readers see the old or the new file."""
    fs, path = locate(uri)

    def attempt() -> None:
        if isinstance(fs, LocalFileSystem):
            _write_partial(Path(path), data).replace(path)
        else:
            fs.pipe_file(path, data)

    call_store(uri, attempt, writing=True)


def replace_json(uri: str, value: dict[str, Any]) -> None:
    """`replace` a file by indented JSON that people can read."""
    replace(uri, json.dumps(value, indent=2, ensure_ascii=False).encode())


def create_file(uri: str, file: Path) -> bool:
    """`create` with the content of a local file of any size.

    Returns:
        Whether this call wrote it. As with `create`, False can mean that the answer was lost.
    """
    fs, path = locate_uncached(uri)
    if isinstance(fs, LocalFileSystem):
        return call_store(uri, lambda: _create_local(Path(path), file), writing=True)

    def attempt() -> bool:
        try:
            if fs.exists(path):
                return False
            fs.put_file(str(file), path, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError:
            fs.invalidate_cache()
            if fs.exists(path):
                return False
            raise

    return call_store(uri, attempt, writing=True)


def replace_version(content: bytes | Path, uri: str, found: StoredFile) -> None:
    """Put bytes, or the content of a local file of any size, in the place of `found`.

    Raises:
        SourceChangedError: What lies there is no longer the version `found`; nothing was written.
    """
    fs, path = locate_uncached(uri)
    now = stat(uri)
    if now is None or (now.size, now.etag) != (found.size, found.etag):
        raise SourceChangedError(
            uri, "was changed by somebody else meanwhile; nothing was overwritten"
        )

    def attempt() -> None:
        if isinstance(fs, LocalFileSystem):
            _write_partial(Path(path), content).replace(path)
        elif isinstance(content, Path):
            fs.put_file(str(content), path)
        else:
            fs.pipe_file(path, content)

    call_store(uri, attempt, writing=True)


def upload(file: BinaryIO, uri: str) -> None:
    """Copy an open file of any size to `uri`, replacing an earlier file."""
    fs, path = locate(uri)

    def attempt() -> None:
        file.seek(0)
        if isinstance(fs, LocalFileSystem):
            partial = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(8)}{PARTIAL}")
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as sink:
                shutil.copyfileobj(file, sink)
            partial.replace(path)
        else:
            with fs.open(path, "wb") as sink:
                shutil.copyfileobj(file, sink, 8 << 20)

    call_store(uri, attempt, writing=True)


def remove(uri: str) -> None:
    """Delete a file, or a folder with everything below it; a missing one is no error."""
    fs, path = locate_uncached(uri)
    try:
        call_store(uri, lambda: fs.rm(path, recursive=True))
    except FileNotFoundError:
        return


def remove_stale_partials(folder: str, older_than_s: float = 3600) -> None:
    """Delete partial files that killed writers left on a local disk. Object stores keep none."""
    if not is_local(folder):
        return
    for file in Path(locate(folder)[1]).glob(f".*{PARTIAL}"):
        try:
            if time.time() - file.stat().st_mtime > older_than_s:
                file.unlink()
        except FileNotFoundError:  # its writer finished it meanwhile
            continue


def _create_local(path: Path, data: bytes | Path) -> bool:
    if os.path.lexists(path):  # a link that leads nowhere is somebody's, too
        return False
    partial = _write_partial(path, data)
    try:
        os.link(partial, path)  # fails if the name exists, so one writer wins
        return True
    except FileExistsError:
        return False
    except PermissionError:  # a file system without hard links
        partial.replace(path)
        return True
    finally:
        partial.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _write_partial(path: Path, data: bytes | Path) -> Path:
    """Write a partial file beside `path`.

    Args:
        data: The content, or a local file that holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # callers take that for the file itself
        raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", str(path.parent)) from None
    # The name may be as long as the disk allows, so it is no part of the partial file's name.
    name = f".{path.name[:40]}.{secrets.token_hex(8)}{PARTIAL}"
    partial = path.parent / name
    try:
        with partial.open("wb") as file:
            if isinstance(data, Path):
                with data.open("rb") as content:
                    shutil.copyfileobj(content, file, 8 << 20)
            else:
                file.write(data)
            reach("mid_put")
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
