"""Joins the conversations of a data set with the places of their images. Reads no image.

A data set is a ShareGPT4V / LLaVA JSON, or the output folder of a caption run.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from s4v_core import storage
from s4v_core.datasets.conversations import (
    Conversation,
    Unusable,
    is_json,
    read_conversations,
)
from s4v_core.datasets.image_fields import NamedImage
from s4v_core.datasets.image_index import ImageIndex, Place
from s4v_core.errors import InputError
from s4v_core.inputs.shard_index import clean_text
from s4v_core.records import plan
from s4v_core.records.captions import caption_units
from s4v_core.records.planned_rows import find_outdated_keys, read_planned_unit


@dataclass(frozen=True, slots=True)
class PlacedConversation:
    """A conversation, and where its images are stored.

    Attributes:
        conversation: The turns of the conversation.
        places: Where each of its images is stored; empty for text alone.
    """

    conversation: Conversation
    places: tuple[Place, ...]


def join_images(
    data: tuple[str, ...],
    images: tuple[str, ...],
    image_root: str | None,
    match_file_names: bool = False,
    on_bytes: Callable[[str, int], None] | None = None,
) -> Iterator[PlacedConversation | Unusable]:
    """Read every conversation of the data sets, each with the places of its images.

    An image that is not found makes its conversation unusable (`not_found`), and so does a name
    that several images have (`ambiguous_image`).

    Args:
        data: URIs of JSON files and of output folders of caption runs.
        images: Inputs with the images that the JSON files name.
        image_root: Folder of these images if `images` is empty; by default each JSON's own folder.
        match_file_names: Whether an image that has no image's whole path may be the only one with
            its file name, whatever the folders and endings; a warning counts them.
        on_bytes: Called with a JSON and the number of its bytes that have been read, unpacked.

    Raises:
        InputError: A data set is neither a JSON of conversations nor the output of a caption run.
    """
    for uri in data:
        if is_json(uri):
            places = images or (image_root or storage.parent(uri),)
            report = partial(on_bytes, uri) if on_bytes else None
            yield from _join_json(uri, places, match_file_names, report)
        else:
            yield from _read_captions(uri)


def _join_json(
    uri: str,
    images: tuple[str, ...],
    match_file_names: bool,
    on_bytes: Callable[[int], None] | None,
) -> Iterator[PlacedConversation | Unusable]:
    index: ImageIndex | None = None
    for found in read_conversations(uri, on_bytes):
        if isinstance(found, Unusable):
            yield found
        elif not found.images:
            yield PlacedConversation(found, ())
        else:
            # Only if there is an image: text alone needs none.
            index = index or ImageIndex(images, match_file_names)
            yield _find_places(found, index)
    if index:
        index.warn_of_matches()


def _find_places(conversation: Conversation, index: ImageIndex) -> PlacedConversation | Unusable:
    places = []
    for image in conversation.images:
        place = index.find(image.name)
        if isinstance(place, str):
            return Unusable(
                conversation.sample_id,
                place,
                image.field,
                clean_text(image.name) or "an empty name",
                data=conversation.data,
                record=conversation.record,
            )
        places.append(place)
    return PlacedConversation(conversation, tuple(places))


def _read_captions(output: str) -> Iterator[PlacedConversation | Unusable]:
    """The captions of a run, each with the place at which the run's plan found its image."""
    head = None if storage.stat(output) else plan.read_plan_head(output)
    if head is None:
        raise InputError(
            output,
            "is neither the output of a caption run nor a JSON; allowed endings are .json, .jsonl "
            "and .ndjson, also with .gz, .bz2, .xz or .zst behind",
        )
    units = caption_units(output, head.settings)
    done = units.list_done()
    for unit in head.units:
        if unit not in done:
            continue
        rows = {row["image_id"]: row for row in units.read(unit).to_pylist()}
        outdated = find_outdated_keys(units, head.parts, unit) or ()
        for place in read_planned_unit(output, unit, head.parts).to_pylist():
            yield _join_caption(output, rows[place["image_id"]], place, outdated)


def _join_caption(
    output: str, row: dict[str, Any], place: Place, outdated: Collection[str]
) -> PlacedConversation | Unusable:
    image_id = row["image_id"]
    if image_id in outdated:
        return Unusable(image_id, "source_changed", data=output)
    if row["status"] != "ok":
        return Unusable(image_id, row["reason"] or row["status"], data=output)
    turns = ((row["prompt"], row["caption"]),)
    image = NamedImage(image_id, "image_id")
    return PlacedConversation(
        Conversation(image_id, (image,), turns, image_turns=(0,), data=output), (place,)
    )
