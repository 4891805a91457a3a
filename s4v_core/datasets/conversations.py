"""Reads conversations from training JSON, one after the other. Reads no image.

A record that cannot be used is a value with a reason; only a file that is no JSON is an error.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from s4v_core import storage
from s4v_core.datasets.bad_fields import BadFieldError
from s4v_core.datasets.image_fields import NamedImage, list_images
from s4v_core.datasets.messages import Message, has_messages, read_messages
from s4v_core.errors import InputError
from s4v_core.inputs.json_records import read_records
from s4v_core.inputs.json_stream import BadRecord
from s4v_core.inputs.shard_index import clean_text
from s4v_core.inputs.text_blocks import TextBlocks

_LOG = logging.getLogger(__name__)

_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_JSON = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation about images, or without any.

    Attributes:
        sample_id: The record's id, or its number in the file.
        images: The images as the record names them, in the order of their marks.
        turns: (question, answer) pairs, without image marks.
        image_turns: For each image, the index of the question that it comes before.
        system: The record's system text, which replaces the template's; None without one.
        data: URI of the file or run.
        record: Number of the record in its file, from 1; None in a caption run.
    """

    sample_id: str
    images: tuple[NamedImage, ...]
    turns: tuple[tuple[str, str], ...]
    image_turns: tuple[int, ...] = ()
    system: str | None = None
    data: str = ""
    record: int | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """A record that cannot be used for training.

    Reasons: bad_record, bad_json, bad_text, inline_image, turns_out_of_order, no_turns,
    image_mark_without_image, two_images (two marks for one image), images_and_marks_differ.

    Attributes:
        sample_id: The record's id, or its number in the file.
        reason: Why it is left out.
        field: Path of the field in the record; empty if it is the record as a whole.
        found: What was found there.
        data: URI of the file or run.
        record: Number of the record in its file, from 1; None in a caption run.
    """

    sample_id: str
    reason: str
    field: str = ""
    found: str = ""
    data: str = ""
    record: int | None = None

    def describe(self) -> dict[str, Any]:
        """The record's line in skipped.jsonl, without what is not known."""
        known = {"data": self.data, "record": self.record, "sample_id": self.sample_id}
        line = {**known, "reason": self.reason, "field": self.field, "found": self.found}
        return {name: value for name, value in line.items() if value not in ("", None)}


def is_json(uri: str) -> bool:
    """Whether a name has the ending of a JSON file, also of a compressed one."""
    name = uri.lower()
    for ending in _COMPRESSIONS:
        name = name.removesuffix(ending)
    return name.endswith(_JSON)


def read_conversations(
    uri: str, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Conversation | Unusable]:
    """Yield every record of a JSON array, or of a `.jsonl` with one record per line, in order.

    A file that is one object around a list of records is read like that list.

    Args:
        on_bytes: Called with the number of bytes that have been read, unpacked.

    Raises:
        InputError: The file is missing, no JSON, or cut.
    """
    if storage.stat(uri) is None:
        raise InputError(uri, "no such file")
    records = read_records(uri, keeps_bad=True, on_bytes=on_bytes)
    for number, record in enumerate(_unwrap(uri, records), 1):
        yield parse_record(uri, number, record)


def _unwrap(uri: str, records: Iterator[Any]) -> Iterator[Any]:
    """The records, also if the file is one object with a list of them."""
    try:
        first = next(records, None)
    except InputError as error:
        if not _starts_as_object(uri):
            raise
        advice = "an object around records is read up to 64 MiB; give its list alone (jq .data)"
        raise InputError(uri, f"{error.problem}; {advice}") from None
    if isinstance(first, dict) and not has_messages(first):
        lists = {
            field: value
            for field, value in first.items()
            if isinstance(value, list) and value and has_messages(value[0])
        }
        if len(lists) == 1:
            [(field, inside)] = lists.items()
            _LOG.info("%s is an object; its records are those of field %s", uri, field)
            yield from inside
            yield from records
            return
    if first is not None:
        yield from chain([first], records)


def _starts_as_object(uri: str) -> bool:
    with storage.open_to_read(uri) as file:
        return next(iter(TextBlocks(file)), "").lstrip().startswith("{")


def parse_record(uri: str, number: int, record: Any) -> Conversation | Unusable:
    """Read one record of a file: its conversation, or the reason why it cannot be used."""
    sample_id = str(number)
    if isinstance(record, dict) and record.get("id") is not None:
        sample_id = clean_text(str(record["id"]))
    try:
        if isinstance(record, BadRecord):
            raise BadFieldError("", "a line that is no JSON", "an object", "bad_json")
        if not isinstance(record, dict):
            raise BadFieldError("", record, "an object")
        return _build_conversation(uri, number, sample_id, record)
    except BadFieldError as bad:
        return Unusable(
            sample_id, bad.reason, bad.field, clean_text(bad.found), data=uri, record=number
        )


def _build_conversation(
    uri: str, number: int, sample_id: str, record: dict[str, Any]
) -> Conversation:
    system, messages = _split_system(read_messages(record))
    images, image_turns = _place_images(list_images(record), messages)
    # As in the original, an answer at the start and a question at the end are left out.
    skipped = 1 if messages and messages[0].role == "assistant" else 0
    kept = messages[skipped:]
    pairs = list(zip(kept[: len(kept) // 2 * 2 : 2], kept[1::2], strict=True))
    for question, answer in pairs:
        if (question.role, answer.role) != ("user", "assistant"):
            found = f"{question.role} before {answer.role}"
            raise BadFieldError(question.field, found, "user and assistant", "turns_out_of_order")
    if not pairs:
        found = f"{len(messages)} turns"
        raise BadFieldError("", found, "a question with its answer", "no_turns")
    placed = [
        (image, (turn - skipped) // 2)
        for image, turn in zip(images, image_turns, strict=True)
        if turn - skipped < 2 * len(pairs)  # not of a question without an answer
    ]
    return Conversation(
        sample_id,
        tuple(image for image, _ in placed),
        tuple((question.text, answer.text) for question, answer in pairs),
        tuple(max(turn, 0) for _, turn in placed),
        system,
        data=uri,
        record=number,
    )


def _split_system(messages: list[Message]) -> tuple[str | None, list[Message]]:
    """Split off the system text, which is the first message if there is one."""
    for message in messages[1:]:
        if message.role == "system":
            raise BadFieldError(message.field, "system", "a system text in front of all turns")
    if messages and messages[0].role == "system":
        return messages[0].text or None, messages[1:]
    return None, messages


def _place_images(
    images: list[NamedImage], messages: list[Message]
) -> tuple[list[NamedImage], list[int]]:
    """All images of a conversation in order, each with the index of its message.

    Marks are paired with the record's images in order. Without any mark, all images come before
    the first question.
    """
    places = [(image, at) for at, message in enumerate(messages) for image in message.images]
    marks = [(image, at) for image, at in places if not isinstance(image, NamedImage)]
    if not places:
        return images, [0] * len(images)
    named = [image.name for image, _ in places if isinstance(image, NamedImage)]
    if images and not marks and named == [image.name for image in images]:
        images = []  # the record lists again what its messages name
    if len(marks) != len(images):
        raise BadFieldError(
            images[0].field if images else messages[places[0][1]].field,
            f"{len(marks)} image marks",
            f"as many as images, which are {len(images)}",
            _name_mismatch(len(marks), len(images)),
        )
    for number, (index, at) in enumerate(marks):
        if index not in (None, number):
            found = f"index {index} of mark {number}"
            raise BadFieldError(messages[at].field, found, "images in the order of their marks")
    following = iter(images)
    pictures = [i if isinstance(i, NamedImage) else next(following) for i, _ in places]
    return pictures, [at for _, at in places]


def _name_mismatch(marks: int, images: int) -> str:
    if not images:
        return "image_mark_without_image"
    return "two_images" if images == 1 and marks > 1 else "images_and_marks_differ"
