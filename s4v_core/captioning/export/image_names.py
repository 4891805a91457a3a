"""Names of images: the one under which an unpacked input holds an image, and safe names for new
files."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from s4v_core.inputs.file_kinds import find_ending, split_name

_USUAL_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "PPM": "ppm"}
"""Endings of formats whose names are no endings."""

_IMAGE_ENDINGS = frozenset(
    [
        *("apng", "avif", "bmp", "dib", "gif", "heic", "heif", "j2k", "jfif", "jp2", "jpe", "jpeg"),
        *("jpg", "jpx", "jxl", "pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    ]
)

_MAX_NAME_BYTES = 150
"""Longest safe name. Disks allow 255 bytes, of which endings and partial files need some."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)
"""Names that Windows does not allow."""


def name_image(planned: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The file that an image is in its unpacked input, as a path that ends like the file does.

    A loose file has its name as its id. A member of a tar has it below a folder of the shard's name
    (`0/a.jpg`), if the plan knows the member. An image of a table gets its id and the usual ending
    of its format.
    """
    image_id = str(result["image_id"])
    if planned["container"] == "file":
        return image_id
    member = planned.get("member")
    if member is not None:
        key, _ = split_name(member)
        if image_id.endswith(f"/{key}"):  # an id with a number is that of another file
            return image_id.removesuffix(key) + str(member)
    ending = find_ending(member) if member is not None else _choose_usual_ending(result)
    return f"{image_id}.{ending}" if ending else image_id


def choose_ending(planned: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The ending for a new file of an image: its own if that is an image's, else that of its
    format."""
    own = find_ending(name_image(planned, result))
    return own if own in _IMAGE_ENDINGS else _choose_usual_ending(result) or "img"


def _choose_usual_ending(result: Mapping[str, Any]) -> str:
    found = result["image_format"]
    return _USUAL_ENDINGS.get(found, str(found).lower()) if found else ""


class FileNames:
    """Gives each image id a file name without an ending, flat and safe on every disk.

    A name has letters, digits, `_` and `-` alone, so that readers which cut names at the first dot
    keep it whole. Names differ in more than case. The same ids in the same order get the same
    names. Takes about 100 bytes of memory for each name.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def choose(self, image_id: str) -> str:
        """The name for the next image."""
        stem, ending = split_name(image_id)
        name = _make_safe(stem if ending in _IMAGE_ENDINGS else image_id)
        digest = hashlib.sha256(image_id.encode()).hexdigest()
        length = 0
        free = name
        while not self._take(free):
            length += 8
            free = f"{name}-{digest[:length]}"
        return free

    def _take(self, name: str) -> bool:
        folded = unicodedata.normalize("NFC", name.casefold()).encode()
        key = int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "big")
        if key in self._taken:
            return False
        self._taken.add(key)
        return True


def _make_safe(image_id: str) -> str:
    """A safe name for an id; where the id is too long, its hash stands for the rest."""
    text = unicodedata.normalize("NFC", image_id)
    name = re.sub(r"[^\w-]+", "_", text).strip("_-") or "image"
    is_long = len(name.encode()) > _MAX_NAME_BYTES
    if is_long or _RESERVED.match(name):
        kept = name.encode()[: _MAX_NAME_BYTES - 20].decode("utf-8", "ignore")
        name = f"{kept}-{hashlib.sha256(image_id.encode()).hexdigest()[:16]}"
    return name
