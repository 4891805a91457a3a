"""Recognises the files that a run wrote outside the names that are its own, so that it never writes
over anybody else's.

Before a file is written, a receipt with its size and hash is created in the run's folder. A file
that exists may be replaced only if a receipt for its place fits its content. Receipts are
create-only and named by their content, like the unit files: there is no ledger to lose or to race
for.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from fsspec.implementations.local import LocalFileSystem

from s4v_core.errors import ConfigError, StorageError
from s4v_core.storage.access import locate
from s4v_core.storage.listing import StoredFile, is_folder, list_folder, stat
from s4v_core.storage.reading import read, read_range
from s4v_core.storage.reasons import SourceChangedError
from s4v_core.storage.uris import join
from s4v_core.storage.writing import create, create_file, replace_version

_FOLDER = ".receipts"
"""Folder of the receipts in a run's folder; listings of inputs skip names that start with a dot."""

_BLOCK = 8 << 20
_MOST_RACES = 10
"""Times that a file may be replaced by another process between a look at it and the write."""


class Written(NamedTuple):
    """Size in bytes and sha256 of a file's content."""

    size: int
    sha256: str


def describe_content(content: bytes | Path) -> Written:
    """Size and hash of bytes or of a local file."""
    if isinstance(content, bytes):
        return Written(len(content), hashlib.sha256(content).hexdigest())
    with content.open("rb") as file:
        return Written(content.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Receipts:
    """The receipts of one place: a file, or a folder of files that belong together.

    Attributes:
        output: Folder of the run.
        place: URI of the file or folder that is written.
    """

    output: str
    place: str

    def add(self, files: Mapping[str, Written]) -> bool:
        """Record the contents of files that are about to be written.

        Args:
            files: By the file's path below the place; "" is the place itself.

        Returns:
            Whether the receipt is stored; False if the run's folder cannot be written to. The files
            then count as somebody else's once this process has ended.
        """
        text = json.dumps({"place": self.place, "files": files}, ensure_ascii=False, indent=1)
        data = text.encode("utf-8", "surrogateescape")
        name = f"{self._name}-{hashlib.sha256(data).hexdigest()[:32]}.json"
        try:
            create(join(self.output, _FOLDER, name), data)
        except StorageError:
            return False
        return True

    def is_named(self, path: str, file: StoredFile) -> bool:
        """Whether a receipt fits the name and the size of a file; its content is not read."""
        return any(written.size == file.size for written in self._stored.get(path, ()))

    def is_own(self, path: str, file: StoredFile) -> bool:
        """Whether a file is, byte for byte, one that this run wrote to this place."""
        if _is_link(file.uri) or not self.is_named(path, file):
            return False
        return self.holds(path, _describe_stored(file))

    def holds(self, path: str, written: Written) -> bool:
        """Whether a receipt says that this content was written to `path`."""
        return written in self._stored.get(path, ())

    def put(self, content: bytes | Path, path: str = "", *, is_recorded: bool = False) -> bool:
        """Write to the place, or to `path` below it, if nothing of anybody else's is lost by that.

        Args:
            content: Bytes, or a local file that holds them.
            is_recorded: Whether `add` was called with this content before.

        Returns:
            Whether something was written; False if the same content was there.

        Raises:
            ConfigError: There is a file that this run did not write.
            StorageError: The store refuses or does not answer, or others write here all the time.
        """
        written = describe_content(content)
        if not is_recorded:
            self.add({path: written})
        for _ in range(_MOST_RACES):
            try:
                return self._put_once(content, written, path)
            except (SourceChangedError, FileNotFoundError):  # another process of this run wrote
                continue
        raise StorageError(self.uri(path), "others write it all the time; nothing was overwritten")

    def _put_once(self, content: bytes | Path, written: Written, path: str) -> bool:
        uri = self.uri(path)
        if stat(uri) is None and _create(uri, content):
            return True
        found = stat(uri)
        if found is None or _is_link(uri):  # a folder, or a link, perhaps to nowhere
            raise refuse_overwriting(uri)
        there = _describe_stored(found)
        if there == written:
            return False
        if not self.holds(path, there) and not self._holds_by_now(path, there):
            raise refuse_overwriting(uri)
        replace_version(content, uri, found)
        return True

    def adopt(self) -> None:
        """Count the file that lies at the place, if there is one, as written by this run."""
        if found := stat(self.place):
            written = _describe_stored(found)
            self.add({"": written})
            self._stored.setdefault("", set()).add(written)

    @property
    def is_empty(self) -> bool:
        """Whether this run wrote nothing to the place yet."""
        return not self._stored

    def uri(self, path: str) -> str:
        """URI of a file of the place."""
        return join(self.place, path) if path else self.place

    @cached_property
    def _name(self) -> str:
        """Start of the receipts' names: however a place is spelled, it has one."""
        name = resolve(self.place).encode("utf-8", "surrogateescape")
        return hashlib.sha256(name).hexdigest()[:32]

    def _holds_by_now(self, path: str, written: Written) -> bool:
        """`holds` with the receipts that other processes added since they were read."""
        for known, contents in self._read_stored().items():
            self._stored.setdefault(known, set()).update(contents)
        return self.holds(path, written)

    @cached_property
    def _stored(self) -> dict[str, set[Written]]:
        """The contents that earlier processes wrote, by path below the place."""
        return self._read_stored()

    def _read_stored(self) -> dict[str, set[Written]]:
        found: dict[str, set[Written]] = {}
        folder = join(self.output, _FOLDER)
        for file in list_folder(folder) if is_folder(folder) else ():
            if not file.uri.rpartition("/")[2].startswith(self._name):
                continue
            for path, (size, sha256) in json.loads(read(file.uri))["files"].items():
                found.setdefault(path, set()).add(Written(size, sha256))
        return found


def resolve(uri: str) -> str:
    """The one spelling of a URI: a local path is absolute and free of links."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        return os.path.realpath(path)
    return str(fs.unstrip_protocol(path)).rstrip("/")


def refuse_overwriting(uri: str) -> ConfigError:
    """The error for a file that this run did not write."""
    return ConfigError(
        f"{uri} exists and was not written by this run, or was changed since; nothing was "
        "overwritten: choose another name, or delete it"
    )


def _create(uri: str, content: bytes | Path) -> bool:
    return create_file(uri, content) if isinstance(content, Path) else create(uri, content)


def _is_link(uri: str) -> bool:
    fs, path = locate(uri)
    return isinstance(fs, LocalFileSystem) and os.path.islink(path)


def _describe_stored(file: StoredFile) -> Written:
    """Size and hash of the very version that was listed.

    Raises:
        SourceChangedError, FileNotFoundError: It was replaced or deleted since.
    """
    digest = hashlib.sha256()
    for start in range(0, file.size, _BLOCK):
        length = min(_BLOCK, file.size - start)
        digest.update(read_range(file.uri, start, length, file.etag))
    return Written(file.size, digest.hexdigest())
