"""Joins the conversations of a data set with the places of their images. Reads no image.

A data set is a ShareGPT4V / LLaVA JSON, or the output folder of a caption run.
"""

import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.datasets.conversations import Conversation, Unusable, read_conversations
from s4v_core.errors import InputError
from s4v_core.inputs.file_kinds import split_name
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import index_shard
from s4v_core.records import plan
from s4v_core.records.captions import caption_units
from s4v_core.records.planned_rows import find_outdated_keys, read_planned_unit

_INDEX_THREADS = 16

Place = dict[str, Any]
"""Where an image is stored: a row with the place columns of `plan_schema`."""


@dataclass(frozen=True, slots=True)
class PlacedConversation:
    """A conversation, and where its image is stored.

    Attributes:
        conversation: The turns of the conversation.
        place: Where the image is stored; None for text alone.
    """

    conversation: Conversation
    place: Place | None


def join_images(
    data: tuple[str, ...],
    images: tuple[str, ...],
    image_root: str | None,
    match_file_names: bool = False,
) -> Iterator[PlacedConversation | Unusable]:
    """Read every conversation of the data sets, each with the place of its image.

    An image that is not found makes its conversation unusable (`not_found`), and so does a name
    that several images have (`ambiguous_image`).

    Args:
        data: URIs of JSON files and of output folders of caption runs.
        images: Inputs with the images that the JSON files name.
        image_root: Folder of these images if `images` is empty; by default each JSON's own folder.
        match_file_names: Whether an image that has no image's whole path may be the only one with
            its file name, whatever the folders and endings.

    Raises:
        InputError: A data set is neither a JSON of conversations nor the output of a caption run.
    """
    for uri in data:
        if uri.endswith((".json", ".jsonl")):
            places = images or (image_root or storage.parent(uri),)
            yield from _join_json(uri, places, match_file_names)
        else:
            yield from _read_captions(uri)


def _join_json(
    uri: str, images: tuple[str, ...], match_file_names: bool
) -> Iterator[PlacedConversation | Unusable]:
    index: _ImageIndex | None = None
    for found in read_conversations(uri):
        if isinstance(found, Unusable):
            yield found
            continue
        if found.image is None:
            yield PlacedConversation(found, None)
            continue
        index = index or _ImageIndex(
            images, match_file_names
        )  # only if there is an image: text alone needs none
        place = index.find(found.image)
        if isinstance(place, str) or place["problem"]:
            yield Unusable(found.sample_id, place if isinstance(place, str) else place["problem"])
        else:
            yield PlacedConversation(found, place)


class _ImageIndex:
    """The images of the inputs, by all the names that a record may call them.

    These are the image id, and for a member of an archive its path in it, with or without the
    archive's name in front. An image id wins over a path in an archive.
    """

    def __init__(self, images: tuple[str, ...], match_file_names: bool) -> None:
        shards = find_shards(images)
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            indexes = list(pool.map(index_shard, shards))
        self._by_id: _Places = {}
        self._by_path: _Places = {}
        self._by_file_name: _Places = {}
        for shard, (rows, _) in zip(shards, indexes, strict=True):
            for row in rows:
                _add_place(self._by_id, row["image_id"], row)
                if row["container"] == "file" and row["uri"] != row["image_id"]:
                    _add_place(self._by_path, row["uri"], row)
                if row["member"]:
                    _add_place(self._by_path, row["member"], row)
                    _add_place(self._by_path, f"{shard.name}/{row['member']}", row)
                if match_file_names:
                    name = row["member"] or row["image_id"]
                    _add_place(self._by_file_name, _name_file(name), row)

    def find(self, image: str) -> Place | str:
        """The place of an image, or the reason why there is none."""
        names = (image, posixpath.normpath(image.replace("\\", "/")))
        for places in (self._by_id, self._by_path):
            for name in names:
                if found := places.get(name):
                    return found
        return self._by_file_name.get(_name_file(image), "not_found")


_Places = dict[str, Place | str]


def _add_place(places: _Places, name: str, row: Place) -> None:
    places[name] = "ambiguous_image" if name in places else row


def _name_file(path: str) -> str:
    """The file name of a path, without its ending."""
    return split_name(storage.base_name(path))[0]


def _read_captions(output: str) -> Iterator[PlacedConversation | Unusable]:
    """The captions of a run, each with the place at which the run's plan found its image."""
    head = plan.read_plan_head(output)
    if head is None:
        raise InputError(output, "is neither a .json nor the output of a caption run")
    units = caption_units(output, head.settings)
    done = units.list_done()
    for unit in head.units:
        if unit not in done:
            continue
        rows = {row["image_id"]: row for row in units.read(unit).to_pylist()}
        outdated = find_outdated_keys(units, head.parts, unit) or ()
        for place in read_planned_unit(output, unit, head.parts).to_pylist():
            row = rows[place["image_id"]]
            if row["image_id"] in outdated:
                yield Unusable(row["image_id"], "source_changed")
                continue
            if row["status"] != "ok":
                yield Unusable(row["image_id"], row["reason"] or row["status"])
                continue
            turns = ((row["prompt"], row["caption"]),)
            yield PlacedConversation(
                Conversation(row["image_id"], row["image_id"], turns, image_turn=0), place
            )
