"""Writing whole files: create-only, which commits rest on, or in place of what was there."""

import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.implementations.local import LocalFileSystem

from s4v_core.failpoints import reach
from s4v_core.storage.access import call, fresh, locate
from s4v_core.storage.places import is_local, join

PROBE = ".create-only"
"""File by which a store shows what it can do."""

ONE_PUT_BYTES = 5 << 30
"""What S3 takes in one request. Written in parts, Ceph's radosgw lets a second writer win."""

PARTIAL = ".partial"
"""Ending of files that are being written on local disks; no reader takes them."""


def create(uri: str, data: bytes) -> bool:
    """Write a whole file that must not exist yet; readers see all of it or nothing.

    Returns:
        Whether this call wrote it, as far as the store says: where an answer was lost on its way,
        False may stand for one's own write. What lies there then decides.

    Raises:
        StorageError: It is not there afterwards.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        return call(uri, lambda: _create_local(Path(path), data), writing=True)
    whole = {"chunksize": ONE_PUT_BYTES} if hasattr(fs, "call_s3") else {}

    def attempt() -> bool:
        try:
            fs.pipe_file(path, data, mode="create", **whole)
            return True
        except FileExistsError:
            return False
        except OSError:
            # A lost answer, or a store that names its refusal differently: what lies there decides.
            fs.invalidate_cache()
            if fs.exists(path):
                return False
            raise

    return call(uri, attempt, writing=True)


def honours_create(folder: str) -> bool:
    """Whether the store of `folder` refuses to create what exists, found out by trying it.

    Leaves a small file there: a store's rights may hold no delete.
    """
    if is_local(folder):
        return True
    uri = join(folder, PROBE)
    create(uri, b"first")
    return not create(uri, b"second")


def replace(uri: str, data: bytes) -> None:
    """Write a whole file, in place of what was there; readers see the old or the new one."""
    fs, path = locate(uri)

    def attempt() -> None:
        if isinstance(fs, LocalFileSystem):
            _write_partial(Path(path), data).replace(path)
        else:
            fs.pipe_file(path, data)

    call(uri, attempt, writing=True)


def replace_json(uri: str, value: dict[str, Any]) -> None:
    """`replace` with JSON for people to read."""
    replace(uri, json.dumps(value, indent=2, ensure_ascii=False).encode())


def upload(file: BinaryIO, uri: str) -> None:
    """Copy an open file to `uri`, in place of what was there; its size does not matter."""
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

    call(uri, attempt, writing=True)


def remove(uri: str) -> None:
    """Take away a file, or a folder with all that is below it; what is not there is no error."""
    fs, path = fresh(uri)
    try:
        call(uri, lambda: fs.rm(path, recursive=True))
    except FileNotFoundError:
        return


def remove_stale_partials(folder: str, older_than_s: float = 3600) -> None:
    """Take away what a killed writer left on a local disk; object stores leave nothing behind."""
    if not is_local(folder):
        return
    for file in Path(locate(folder)[1]).glob(f".*{PARTIAL}"):
        try:
            if time.time() - file.stat().st_mtime > older_than_s:
                file.unlink()
        except FileNotFoundError:  # its writer was alive after all
            continue


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
