"""Turns the names of images in a table into URIs. Opens no file.

A name is a path or a URL, exactly as it is written: pattern marks and percent signs mean nothing.
"""

import base64
import binascii
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from s4v_core import storage
from s4v_core.inputs.shards import Shard

ID_COLUMNS = ("image_id", "id", "key", "__key__")
"""Columns that hold the id of an image."""

NAME_COLUMNS = (
    *("path", "image_path", "img_path", "file_name", "filename", "file_path", "filepath", "file"),
    *("image", "images", "image_file", "img", "uri", "image_uri", "url", "image_url"),
)
"""Columns that name images, in order of preference: a local path goes before a URL."""

_ENDINGS = "jpg|jpeg|jpe|jfif|png|webp|gif|bmp|tif|tiff|avif|heic|heif|jp2|ppm|pgm|jxl"
_IMAGE_NAME = re.compile(rf"\S+://\S+|[^\t\n]*\.(?:{_ENDINGS})\s*", re.IGNORECASE)

_MAX_NAME_CHARS = 4096
"""Longest name. No store has longer paths, and a longer text is something else."""

_UNUSUAL = re.compile(r"[\\\0:]|^[~/]|//|(?:^|/)\.{1,2}(?:/|$)|/$")
"""Matches every name that is not simply a path below the root."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WEB = ("http://", "https://")
_FOREIGN_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""Matches a path that starts with a drive or a host of Windows."""

_BASE64_HEADS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk0", "SUkq", "TU0AK")
"""The first base64 characters of JPEG, PNG, GIF, WebP, BMP and TIFF."""
_MIN_INLINE_CHARS = 40
_MIN_BASE64_CHARS = 128  # a shorter text with such a beginning may be a name without an ending
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")


class ImageNames:
    """Resolves the names in one table against the folder of its images.

    An absolute path is read if it lies below the image root. It is also read if the table is a
    local file and no image root restricts it, because `find /data -name '*.jpg'` lists such paths.
    A table from elsewhere must not name the files of this machine.
    """

    def __init__(self, shard: Shard) -> None:
        root = storage.absolute(shard.image_root or _find_folder(shard.uri))
        self._prefix = root.rstrip("/") + "/"
        self._folder = storage.base_name(root)
        self._is_local = storage.is_local(root)
        self._is_web = root.startswith(_WEB)
        self._is_unrestricted = shard.image_root is None and storage.is_local(shard.uri)

    def resolve(self, name: Any) -> tuple[str, str | None]:
        """The URI of an image, and the reason why it must not be read, if there is one.

        Reasons: not_found (there is no name), bad_name (the text cannot be a name), unsafe_path
        (a path outside of the images' folder).
        """
        if not isinstance(name, str):
            return "", "not_found" if name is None else "bad_name"
        if not name:
            return "", "not_found"
        if len(name) > _MAX_NAME_CHARS or "\0" in name:
            return "", "bad_name"
        if name.startswith(_WEB):
            return name, None
        if len(name) >= _MIN_INLINE_CHARS and is_inline_image(name):
            return "", "bad_name"
        if not _UNUSUAL.search(name):
            return self._join(name), None
        if scheme := _SCHEME.match(name):
            return self._resolve_url(name, scheme[1].lower())
        return self._resolve_path(name)

    def name_source(self, uri: str) -> str:
        """The first folder below the root, or the root's own name for an image outside of it."""
        inside = uri.removeprefix(self._prefix)
        return inside.split("/", 1)[0] if inside != uri and "/" in inside else self._folder

    def _resolve_url(self, name: str, scheme: str) -> tuple[str, str | None]:
        rest = name[len(scheme) :]
        if scheme not in ("file", "local"):
            return scheme + rest, None
        host, slash, path = rest.removeprefix("://").partition("/")
        if host not in ("", "localhost"):
            return name, "unsafe_path"
        path = slash + (unquote(path) if scheme == "file" else path)
        return ("", "bad_name") if "\0" in path else self._resolve_absolute(path)

    def _resolve_path(self, name: str) -> tuple[str, str | None]:
        if _FOREIGN_PATH.match(name):
            return name, "unsafe_path"
        path = name.replace("\\", "/")  # a table that was written on Windows
        if path.startswith("file:/"):
            return self._resolve_absolute(unquote(path.removeprefix("file:")))
        if path.startswith("~/") and self._is_unrestricted:
            path = str(Path.home()) + path[1:]
        if path.startswith("/"):
            return self._resolve_absolute(path)
        inside = posixpath.normpath(path)
        if inside == ".":
            return "", "bad_name"
        if inside.split("/", 1)[0] == "..":
            return name, "unsafe_path"
        return self._join(inside), None

    def _resolve_absolute(self, path: str) -> tuple[str, str | None]:
        path = "/" + posixpath.normpath(path).lstrip("/")
        is_below = self._is_local and path.startswith(self._prefix)
        return path, None if is_below or self._is_unrestricted else "unsafe_path"

    def _join(self, name: str) -> str:
        if self._is_web:  # there these two marks would end the path
            name = name.replace("#", "%23").replace("?", "%3F")
        return self._prefix + name


def _find_folder(uri: str) -> str:
    """The folder of a table, whose URL may have been signed with a query."""
    return storage.parent(uri.split("?", 1)[0] if uri.startswith(_WEB) else uri)


def looks_like_image(text: str) -> bool:
    """Whether a text is a URL, or a path with the ending of an image."""
    return len(text) <= _MAX_NAME_CHARS and _IMAGE_NAME.fullmatch(text) is not None


def is_inline_image(text: str) -> bool:
    """Whether a text is an image itself: a `data:` URL, or base64 that starts like an image."""
    if len(text) < _MIN_INLINE_CHARS:
        return False
    if text.startswith("data:"):
        return True
    is_long = len(text) >= _MIN_BASE64_CHARS and text.startswith(_BASE64_HEADS)
    return is_long and _BASE64.fullmatch(text) is not None


def decode_inline_image(text: str) -> bytes | str:
    """The bytes of an inline image, or the reason for none."""
    head, comma, data = text.partition(",") if text.startswith("data:") else ("", "", text)
    if comma and not head.endswith(";base64"):
        return "bad_name"
    try:
        return base64.b64decode(unquote(data))
    except (binascii.Error, ValueError):
        return "bad_name"


def note_choice(chosen: str, candidates: Sequence[str], notes: list[str]) -> None:
    """Add a note about the choice of a column, if others could also be the images."""
    others = [name for name in candidates if name != chosen]
    if others:
        note = f"images are taken from {chosen}, not from {', '.join(others)}"
        if note not in notes:
            notes.append(note)
