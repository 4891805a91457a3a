"""A local copy of files of a store, made once per machine, whole or not at all.

Several processes may ask for the same copy at the same time.
"""

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from s4v_core.errors import StorageError
from s4v_core.failpoints import reach
from s4v_core.storage.access import call_store, locate
from s4v_core.storage.listing import StoredFile, stat
from s4v_core.storage.reasons import SourceChangedError
from s4v_core.storage.uris import base_name
from s4v_core.storage.writing import PARTIAL


def mirror(files: Sequence[StoredFile], target: Path) -> Path:
    """Copy `files`, in the version that was listed, to the folder `target` unless it is there.

    The folder appears only when it is complete. Other processes of this machine that ask for the
    same folder wait meanwhile; if the copying process dies, the next one starts from scratch.

    Raises:
        SourceChangedError: One of the files has been replaced since it was listed.
        StorageError: The store does not answer, or the disk is full or refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not _is_complete(files, target):
                _fetch(files, target)
    except OSError as error:
        raise StorageError(str(target.parent), f"{type(error).__name__}: {error}") from error
    return target


def _is_complete(files: Sequence[StoredFile], folder: Path) -> bool:
    """Whether the folder still holds every file with its size; someone may have deleted one."""
    try:
        return all((folder / base_name(f.uri)).stat().st_size == f.size for f in files)
    except FileNotFoundError:
        return False


def _fetch(files: Sequence[StoredFile], target: Path) -> None:
    partial = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        _check_free_space(files, target.parent)
        partial.mkdir()
        # One file at a time: s3fs reads ten parts of a large file at once, half a GB of memory.
        for file in files:
            _copy(file, partial)
            reach("in_mirror")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(file: StoredFile, folder: Path) -> None:
    """Copy one file, with a patience of its own: an outage counts against one file and not all."""
    fs, path = locate(file.uri)
    copy = folder / base_name(file.uri)
    try:
        call_store(file.uri, lambda: fs.get_file(path, str(copy)))
    except FileNotFoundError:
        raise SourceChangedError(file.uri, "is gone since it was listed") from None
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
            raise error.__cause__ from None
        raise
    now = stat(file.uri)
    if now is None or (now.size, now.etag) != (file.size, file.etag):
        raise SourceChangedError(file.uri, "changed while it was fetched")
    if (found := copy.stat().st_size) != file.size:
        raise StorageError(file.uri, f"found {found} of {file.size} bytes")


def _check_free_space(files: Sequence[StoredFile], folder: Path) -> None:
    needed, free = sum(file.size for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            str(folder),
            f"needs {needed / 2**30:.1f} GiB, found {free / 2**30:.1f} free; make room there, or "
            "choose a larger disk",
        )
