"""Listings of a store: which files there are, how large they are, and which version they are."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem

from s4v_core.errors import StorageError
from s4v_core.storage.access import UnreachableError, call_store, locate_uncached
from s4v_core.storage.uris import base_name


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


def exists(uri: str) -> bool:
    """Whether a file or folder exists, according to the store and not to a cache."""
    fs, path = locate_uncached(uri)
    return call_store(uri, lambda: bool(fs.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder (on object stores: a prefix with something below it)."""
    fs, path = locate_uncached(uri)
    return call_store(uri, lambda: bool(fs.isdir(path)))


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
    fs, path = locate_uncached(folder)
    found = call_store(folder, lambda: fs.find(path, detail=True))
    files = [describe_file(fs, i) for n, i in found.items() if not _is_hidden(n[len(path) :])]
    return sorted(files, key=lambda file: file.uri)


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
    (`*`, `**`)."""
    uris: list[str] = []
    for one in braceexpand(pattern) if "{" in pattern else [pattern]:
        if not any(mark in one for mark in "*?["):
            uris.append(one)
            continue
        uris += _expand_glob(one)
    return uris


def describe_file(fs: Any, info: dict[str, Any]) -> StoredFile:
    """Translate one entry of an fsspec listing, whose fields differ between stores."""
    etag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or ""
    name = info["name"]
    uri = name if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(name)
    written = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    modified_s = written.timestamp() if isinstance(written, datetime) else float(written)
    return StoredFile(uri, int(info["size"]), str(etag).strip('"'), modified_s)


def _expand_glob(pattern: str) -> list[str]:
    fs, path = locate_uncached(pattern)
    found = call_store(pattern, lambda: fs.glob(path))
    return sorted(fs.unstrip_protocol(name) for name in found)


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))
