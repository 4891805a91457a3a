"""Listings of a store: which files there are, how large they are, and which version they are."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem

from s4v_core.errors import StorageError
from s4v_core.storage.access import UnreachableError, call_store, locate_uncached
from s4v_core.storage.reasons import PlaceError
from s4v_core.storage.uris import base_name, is_web

_GLOB_MARKS = "*?["


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One object of a store.

    Attributes:
        uri: URI of the file, as `read` takes it.
        size: Size in bytes.
        etag: Changes when the content does: the store's own tag, else the time of modification.
        modified_s: Time of writing in seconds since 1970; 0 if the store does not report it.
    """

    uri: str
    size: int
    etag: str
    modified_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FileTree:
    """All that lies below a folder.

    Attributes:
        files: Sorted by URI, without those whose path has a part that starts with a dot.
        closed: Folders that could not be listed.
    """

    files: list[StoredFile] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def exists(uri: str) -> bool:
    """Whether a file or folder exists, according to the store and not to a cache."""
    fs, path = locate_uncached(uri)
    return call_store(uri, lambda: bool(fs.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder (on object stores: a prefix with something below it)."""
    fs, path = locate_uncached(uri)
    if not hasattr(fs, "call_s3"):
        return call_store(uri, lambda: bool(fs.isdir(path)))
    # `isdir` would list the whole prefix.
    bucket, key, _ = fs.split_path(path)
    query = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else "", "MaxKeys": 1}
    try:
        page = call_store(uri, lambda: fs.call_s3("list_objects_v2", **query))
    except FileNotFoundError:
        return False
    return bool(page.get("Contents")) or not key


def refusal(folder: str) -> str | None:
    """Why `folder` cannot be written to, as far as one listing shows; None if nothing speaks
    against it.

    It detects a missing bucket and missing rights. A folder that does not exist yet is no
    problem, and a local one is not checked.

    Raises:
        UnreachableError: The store does not answer.
    """
    fs, path = locate_uncached(folder)
    if not hasattr(fs, "call_s3"):
        return None
    bucket, key, _ = fs.split_path(path)
    query = {"Bucket": bucket, "Prefix": key, "MaxKeys": 1}
    try:
        call_store(folder, lambda: fs.call_s3("list_objects_v2", **query), writing=True)
    except UnreachableError:
        raise
    except StorageError as error:
        return error.problem
    return None


def stat(uri: str) -> StoredFile | None:
    """The file at `uri`; None if there is none."""
    fs, path = locate_uncached(uri)
    try:
        info = call_store(uri, lambda: fs.info(path))
    except FileNotFoundError:
        return None
    return None if info["type"] == "directory" else describe_file(fs, info)


def list_files(folder: str) -> list[StoredFile]:
    """All files below `folder`, sorted by URI, without those whose path has a part that starts
    with a dot."""
    return list_tree(folder).files


def list_tree(folder: str) -> FileTree:
    """All files below `folder`, and the folders below it that cannot be listed.

    Links on a local disk are followed; a folder that several links lead to is listed once.

    Raises:
        StorageError: `folder` itself cannot be listed.
    """
    fs, path = locate_uncached(folder)
    if isinstance(fs, LocalFileSystem):
        return call_store(folder, lambda: _walk(Path(path)))
    if hasattr(fs, "call_s3"):
        return FileTree(sorted(_list_s3(fs, folder, path), key=lambda file: file.uri))
    found = call_store(folder, lambda: fs.find(path, detail=True))
    files = [
        describe_file(fs, info)
        for name, info in found.items()
        if not _is_hidden(name[len(path) :]) and not name.endswith("/") and name != path
    ]
    return FileTree(sorted(files, key=lambda file: file.uri))


def list_folder(folder: str) -> list[StoredFile]:
    """The files directly in `folder`, sorted by URI, without names that start with a dot.

    Raises:
        FileNotFoundError: There is no such folder.
        StorageError: The store refuses or does not answer.
    """
    fs, path = locate_uncached(folder)
    found = call_store(folder, lambda: fs.ls(path, detail=True))
    files = [
        describe_file(fs, info)
        for info in found
        # If `folder` is a file, a store may answer with the file itself.
        if info["type"] == "file" and info["name"].strip("/") != path.strip("/")
    ]
    return sorted((f for f in files if not base_name(f.uri).startswith(".")), key=lambda f: f.uri)


def expand(pattern: str) -> list[str]:
    """The URIs that match a pattern: braces (`{0000..0003}`) are expanded first, then globs
    (`*`, `**`). A file or folder that has the pattern for its name is meant itself.

    In the URLs of web servers these marks mean other things: of them only braces are expanded.
    """
    if not has_marks(pattern) or (not is_web(pattern) and _exists_literally(pattern)):
        return [pattern]
    try:
        names = list(braceexpand(pattern)) if "{" in pattern else [pattern]
    except ValueError:  # braces that do not close
        names = [pattern]
    uris: list[str] = []
    for name in names:
        is_glob = any(mark in name for mark in _GLOB_MARKS) and not is_web(name)
        uris += _expand_glob(name) if is_glob else [name]
    return uris


def _exists_literally(pattern: str) -> bool:
    try:
        return exists(pattern)
    except PlaceError:  # it cannot be a name
        return False


def has_marks(pattern: str) -> bool:
    """Whether `expand` may take the text for a pattern."""
    return any(mark in pattern for mark in (*_GLOB_MARKS, "{"))


def describe_file(fs: Any, info: dict[str, Any]) -> StoredFile:
    """Translate one entry of an fsspec listing, whose fields differ between stores."""
    if isinstance(fs, LocalFileSystem):
        return _describe_local(Path(info["name"]))
    # The hub calls the hash of a file's content blob_id.
    names = ("ETag", "etag", "blob_id", "mtime", "created")
    etag = next((info[name] for name in names if info.get(name)), "")
    uri = fs.unstrip_protocol(info["name"])
    written = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    modified_s = written.timestamp() if isinstance(written, datetime) else float(written)
    return StoredFile(uri, int(info["size"] or 0), str(etag).strip('"'), modified_s)


def _list_s3(fs: Any, folder: str, path: str) -> Iterator[StoredFile]:
    """Yield the objects below a prefix, page by page: `find` would keep 1.5 kB of each."""
    bucket, key, _ = fs.split_path(path)
    query = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}
    while True:
        page = call_store(folder, partial(fs.call_s3, "list_objects_v2", **query))
        for found in page.get("Contents", ()):
            name = found["Key"]
            # A name that ends in a slash is a mark that consoles leave for a folder.
            if not name.endswith("/") and not _is_hidden(name[len(query["Prefix"]) :]):
                yield StoredFile(
                    f"s3://{bucket}/{name}",
                    int(found["Size"]),
                    found["ETag"].strip('"'),
                    found["LastModified"].timestamp(),
                )
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page["NextContinuationToken"]


def _describe_local(path: Path) -> StoredFile:
    """A file as the reads find it, which follow links; a link that leads nowhere is empty."""
    try:
        found = path.stat()
    except OSError:
        return StoredFile(str(path), 0, "")
    return StoredFile(str(path), found.st_size, str(found.st_mtime), found.st_mtime)


def _walk(root: Path) -> FileTree:
    """Walk a local folder: its own folders first, then what links lead to."""
    tree, seen = FileTree(), set[tuple[int, int]]()
    waiting, linked = [root], list[Path]()
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            found = folder.stat()
            if (place := (found.st_dev, found.st_ino)) in seen:
                continue
            seen.add(place)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            if folder == root:
                raise
            tree.closed.append(str(folder))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _leads_to_folder(entry):
                (linked if entry.is_symlink() else waiting).append(Path(entry.path))
            else:
                tree.files.append(_describe_local(Path(entry.path)))
    tree.files.sort(key=lambda file: file.uri)
    return tree


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _expand_glob(pattern: str) -> list[str]:
    fs, path = locate_uncached(pattern)
    found = call_store(pattern, lambda: fs.glob(path))
    is_local = isinstance(fs, LocalFileSystem)
    return sorted(name if is_local else fs.unstrip_protocol(name) for name in found)


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))
