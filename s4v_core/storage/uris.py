"""Names of files on any fsspec URI. Sends no request to a store."""

from pathlib import Path
from typing import Any

import pyarrow.fs as pa_fs
from fsspec.implementations.local import LocalFileSystem

from s4v_core.storage.access import locate


def join(uri: str, *names: str) -> str:
    """`uri` with `names` appended as path parts."""
    return "/".join([uri.rstrip("/") or "/", *names]).replace("//", "/", 1 if uri == "/" else 0)


def base_name(uri: str) -> str:
    """Last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def parent(uri: str) -> str:
    """The folder that contains `uri`."""
    return uri.rstrip("/").rpartition("/")[0] or ("/" if uri.startswith("/") else ".")


def absolute(uri: str) -> str:
    """`uri` in a form that every node understands: a local path becomes absolute, without `.` and
    double slashes."""
    fs, path = locate(uri)
    return str(Path(path)) if isinstance(fs, LocalFileSystem) else uri.rstrip("/")


def is_web(uri: str) -> bool:
    """Whether `uri` is an address on a web server."""
    return uri.startswith(("http://", "https://"))


def is_local(uri: str) -> bool:
    """Whether `uri` lies on a disk of this machine, or on a file system mounted there."""
    return isinstance(locate(uri)[0], LocalFileSystem)


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """The store as a pyarrow file system, and the path of `uri` in it."""
    fs, path = locate(uri)
    handler: Any = pa_fs.FSSpecHandler
    return pa_fs.PyFileSystem(handler(fs)), path
