"""Joins the conversations of a data set with the places of their images. Reads no image.

A data set is a ShareGPT4V / LLaVA JSON, or the output folder of a caption run.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.datasets.conversations import Conversation, Unusable, read_conversations
from s4v_core.errors import InputError
from s4v_core.inputs.indexing import index_shard
from s4v_core.inputs.shards import find_shards
from s4v_core.records import plan
from s4v_core.records.captions import caption_units

_INDEX_THREADS = 16

Place = dict[str, Any]
"""Where an image is stored: a row with the place columns of PLAN_SCHEMA."""


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
    data: tuple[str, ...], images: tuple[str, ...], image_root: str | None
) -> Iterator[PlacedConversation | Unusable]:
    """Read every conversation of the data sets, each with the place of its image.

    Args:
        data: URIs of JSON files and of output folders of caption runs.
        images: Inputs with the images that the JSON files name.
        image_root: Folder of these images if `images` is empty; by default each JSON's own folder.

    Raises:
        InputError: A data set is neither a JSON of conversations nor the output of a caption run.
    """
    for uri in data:
        if uri.endswith((".json", ".jsonl")):
            yield from _join_json(uri, images or (image_root or storage.parent(uri),))
        else:
            yield from _read_captions(uri)


def _join_json(uri: str, images: tuple[str, ...]) -> Iterator[PlacedConversation | Unusable]:
    index: _ImageIndex | None = None
    for found in read_conversations(uri):
        if isinstance(found, Unusable):
            yield found
            continue
        if found.image is None:
            yield PlacedConversation(found, None)
            continue
        index = index or _ImageIndex(images)  # only if there is an image: text alone needs none
        place = index.find(found.image)
        if place is None or place["problem"]:
            yield Unusable(found.sample_id, place["problem"] if place else "not_found")
        else:
            yield PlacedConversation(found, place)


class _ImageIndex:
    """The images of the inputs, by name."""

    def __init__(self, images: tuple[str, ...]) -> None:
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            indexes = list(pool.map(index_shard, find_shards(images)))
        rows = [row for found, _ in indexes for row in found]
        self._by_id = {row["image_id"]: row for row in rows}
        self._by_key = {_remove_ending(row["image_id"]): row for row in rows}
        self._by_name = {_last_part(key): row for key, row in self._by_key.items()}
        self._name_counts = Counter(map(_last_part, self._by_key))

    def find(self, image: str) -> Place | None:
        """Find an image by its id, by its id without the ending, or by its file name without the
        ending if only one image has that name."""
        key = _remove_ending(image)
        found = self._by_id.get(image) or self._by_key.get(key)
        if found is None and self._name_counts[_last_part(key)] == 1:
            found = self._by_name[_last_part(key)]
        return found


def _remove_ending(name: str) -> str:
    folder, dot, ending = name.rpartition(".")
    return folder if dot and "/" not in ending else name


def _last_part(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _read_captions(output: str) -> Iterator[PlacedConversation | Unusable]:
    """The captions of a run, each with the place at which the run's plan found its image."""
    head = plan.read_plan_head(output)
    if head is None:
        raise InputError(output, "is neither a .json nor the output of a caption run")
    units = caption_units(output)
    done = units.list_done()
    for unit in head.units:
        if unit not in done:
            continue
        rows = {row["image_id"]: row for row in units.read(unit).to_pylist()}
        for place in plan.read_planned_unit(output, unit).to_pylist():
            row = rows[place["image_id"]]
            if row["status"] != "ok":
                yield Unusable(row["image_id"], row["reason"] or row["status"])
                continue
            turns = ((row["prompt"], row["caption"]),)
            yield PlacedConversation(
                Conversation(row["image_id"], row["image_id"], turns, image_turn=0), place
            )
