"""Finds the images that records name, by their whole paths. Reads no image."""

import logging
import posixpath
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from s4v_core import storage
from s4v_core.inputs.file_kinds import split_name
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import index_shard
from s4v_core.inputs.shard_index import Row
from s4v_core.inputs.shards import Shard

_LOG = logging.getLogger(__name__)
_INDEX_THREADS = 16
_FILE_URL = "file://"

Place = dict[str, Any]
"""Where an image is stored: a row with the place columns of `plan_schema`."""

_Places = dict[str, Place | str]


class ImageIndex:
    """The images of the inputs, by all the names that a record may call them.

    These are the image id, and for a member of an archive its path in it, with or without the
    archive's name in front. An image id wins over a path in an archive, and a name as it is
    written over the same name in another spelling of Unicode (macOS writes accents as characters
    of their own).

    Attributes:
        by_file_name: Number of images that were found by their file names alone.
        example: The first image that was found so: the name in its record, and its place.
    """

    def __init__(self, images: tuple[str, ...], match_file_names: bool) -> None:
        self.by_file_name = 0
        self.example: tuple[str, str] | None = None
        shards = find_shards(images)
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            indexes = list(pool.map(index_shard, shards))
        self._by_id: _Places = {}
        self._by_path: _Places = {}
        self._by_spelling: _Places = {}
        self._by_file_name: _Places = {}
        for shard, (rows, _) in zip(shards, indexes, strict=True):
            for row in rows:
                self._add(shard, row, match_file_names)

    def find(self, image: str) -> Place | str:
        """The place of an image, or the reason why there is none: not_found, ambiguous_image (of
        several that fit), or what is wrong with the image."""
        found = self._find_path(image)
        if found == "not_found":
            found = self._by_file_name.get(_name_file(image), found)
            if not isinstance(found, str):
                self.by_file_name += 1
                self.example = self.example or (image, found["image_id"])
        return found if isinstance(found, str) else found["problem"] or found

    def warn_of_matches(self) -> None:
        """Log a warning if images were found by their file names alone."""
        if self.example:
            _LOG.warning(
                "%d images were found by their file names alone (--match-file-names): %s is taken "
                "from %s",
                self.by_file_name,
                *self.example,
            )

    def _find_path(self, image: str) -> Place | str:
        path = unquote(image.removeprefix(_FILE_URL)) if image.startswith(_FILE_URL) else image
        names = (image, posixpath.normpath(path.replace("\\", "/")))
        for places in (self._by_id, self._by_path):
            for name in names:
                if found := places.get(name):
                    return found
        return self._by_spelling.get(_spell(names[1]), "not_found")

    def _add(self, shard: Shard, row: Row, match_file_names: bool) -> None:
        _add_place(self._by_id, row["image_id"], row)
        paths = list_paths(shard, row)
        for path in paths:
            _add_place(self._by_path, path, row)
        for name in {row["image_id"], *paths}:
            if not name.isascii():
                _add_place(self._by_spelling, _spell(name), row)
        if match_file_names:
            _add_place(self._by_file_name, _name_file(row["member"] or row["image_id"]), row)


def list_paths(shard: Shard, row: Row) -> list[str]:
    """The names of an image besides its id: its path in the archive, with and without the archive's
    own name, or its URI."""
    if row["member"]:
        member = posixpath.normpath(row["member"])  # `tar -C folder .` writes ./ in front
        return [member, f"{shard.name}/{member}"]
    is_other_file = row["container"] == "file" and row["uri"] != row["image_id"]
    return [row["uri"]] if is_other_file else []


def _add_place(places: _Places, name: str, row: Place) -> None:
    places[name] = "ambiguous_image" if name in places else row


def _spell(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _name_file(path: str) -> str:
    """The file name of a path, without its ending."""
    return split_name(storage.base_name(path))[0]
