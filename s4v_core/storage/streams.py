"""Writing a file of any size as a stream: it appears whole, or not at all."""

import errno
import io
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.implementations.local import LocalFileSystem

from s4v_core.errors import StorageError
from s4v_core.storage.access import call_store, locate
from s4v_core.storage.reading import read
from s4v_core.storage.writing import PARTIAL, remove, replace, upload

T = TypeVar("T")


@contextmanager
def open_to_write(uri: str, spool: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it appears at the end of the block, and replaces an earlier one.

    What is meant for a store is collected in a local file first, because a store that fails in the
    middle can only be given the whole again; that is repeated for as long as the caller's patience
    lasts.

    Args:
        spool: Local folder for that file.

    Raises:
        StorageError: The disk or the store refuses it. This error also replaces one that foreign
            code makes of a failed write, such as torch's "unexpected pos" on a full disk.
        UnreachableError: The store did not answer for too long.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with _write_beside(uri, Path(path)) as file:
            yield file
        return
    spool.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=spool) as local:
        with _note_errors(local, str(spool)) as noting:
            yield noting
        upload(cast(BinaryIO, local), uri)


def make_folder(uri: str) -> None:
    """Make a folder and those above it, where the store has folders."""
    fs, path = locate(uri)
    call_store(uri, lambda: fs.makedirs(path, exist_ok=True), writing=True)


def rename(old: str, new: str) -> None:
    """Rename a small file, replacing an earlier one. May be repeated after a lost answer."""
    fs, path = locate(old)
    if isinstance(fs, LocalFileSystem):
        target = locate(new)[1]
        call_store(new, lambda: os.replace(path, target), writing=True)
        return
    replace(new, read(old))
    remove(old)


@contextmanager
def _write_beside(uri: str, path: Path) -> Iterator[BinaryIO]:
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{PARTIAL}")
    call_store(uri, lambda: path.parent.mkdir(parents=True, exist_ok=True), writing=True)
    file = call_store(uri, lambda: partial.open("wb"), writing=True)
    try:
        with file, _note_errors(file, uri) as noting:
            yield noting
        call_store(uri, lambda: partial.replace(path), writing=True)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _note_errors(file: Any, place: str) -> Iterator[BinaryIO]:
    noting = _NotingFile(file)
    try:
        yield cast(BinaryIO, noting)
        noting.flush()
    except Exception as error:
        raise describe_write_error(place, noting.error or error) from error


def describe_write_error(place: str, error: BaseException) -> BaseException:
    """A failed write as a StorageError that names the disk; other errors stay as they are."""
    if not isinstance(error, OSError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            place,
            f"the disk is full ({_find_disk(place)}: {os.strerror(error.errno or 0)}); make room "
            "and run the same command again",
        )
    return StorageError(place, f"{type(error).__name__}: {error}")


def _find_disk(place: str) -> Path:
    """Where the disk of a local place is mounted."""
    path = Path(place.removeprefix("file://")).absolute()
    return next((one for one in (path, *path.parents) if one.is_mount()), path)


class _NotingFile(io.BufferedIOBase):
    """A file that remembers its first error, which foreign code may lose."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        return int(self._noting(lambda: self._file.write(data)))

    def flush(self) -> None:
        if not self._file.closed:
            self._noting(self._file.flush)

    def tell(self) -> int:
        return int(self._noting(self._file.tell))

    def fileno(self) -> int:
        return int(self._file.fileno())

    def writable(self) -> bool:
        return True

    def _noting(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as error:
            self.error = self.error or error
            raise
