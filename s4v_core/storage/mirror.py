"""Files of a store, once on this machine: all of them or none, however many processes ask."""

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from s4v_core.errors import StorageError
from s4v_core.failpoints import reach
from s4v_core.storage.access import call, locate
from s4v_core.storage.places import base_name
from s4v_core.storage.reading import SourceChangedError, StoredFile, stat
from s4v_core.storage.writing import PARTIAL


def mirror(files: Sequence[StoredFile], target: Path) -> Path:
    """Copies of `files`, as they were listed, in the folder `target`, fetched unless it is there.

    It appears whole. Who asks for the same one meanwhile waits for it, also in another
    process of this machine; a process that dies lets the next one begin anew.

    Raises:
        SourceChangedError: One of them is another one by now.
        StorageError: The store does not answer, or the disk is full or refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not _is_whole(files, target):
                _fetch(files, target)
    except OSError as error:
        raise StorageError(str(target.parent), f"{type(error).__name__}: {error}") from error
    return target


def _is_whole(files: Sequence[StoredFile], folder: Path) -> bool:
    """Also false where somebody who tidies up took a file out of it."""
    try:
        return all((folder / base_name(f.uri)).stat().st_size == f.size for f in files)
    except FileNotFoundError:
        return False


def _fetch(files: Sequence[StoredFile], target: Path) -> None:
    partial = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        _refuse_too_little_room(files, target.parent)
        partial.mkdir()
        # One after the other: s3fs reads a large file in ten parts at a time, half a GB of memory.
        for file in files:
            _copy(file, partial)
            reach("in_mirror")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(file: StoredFile, folder: Path) -> None:
    """Each file with a patience of its own: a store's bad minute costs one of them, not all."""
    fs, path = locate(file.uri)
    copy = folder / base_name(file.uri)
    try:
        call(file.uri, lambda: fs.get_file(path, str(copy)))
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


def _refuse_too_little_room(files: Sequence[StoredFile], folder: Path) -> None:
    needed, free = sum(file.size for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            str(folder),
            f"needs {needed / 2**30:.1f} GiB, found {free / 2**30:.1f} free; make room there, or "
            "choose a larger disk",
        )
