"""ShareGPT4V / LLaVA JSON -> conversations, one after the other. Reads no image."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.inputs.indexing import read_records

IMAGE = "<image>"  # chat is a neighbour

HUMAN, ASSISTANT = "human", "gpt"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said about one image, or about none.

    Attributes:
        sample_id: The record's id, or its place in the file.
        image: As the record names it; None for text alone.
        turns: (question, answer) pairs, without image marks.
        image_turn: Question that the image stands in front of; None without an image.
    """

    sample_id: str
    image: str | None
    turns: tuple[tuple[str, str], ...]
    image_turn: int | None


@dataclass(frozen=True, slots=True)
class Unusable:
    """A record that is well formed and still teaches nothing.

    Reasons: turns_out_of_order, no_turns, image_mark_without_image, two_images.
    """

    sample_id: str
    reason: str


def read_conversations(uri: str) -> Iterator[Conversation | Unusable]:
    """Every record of a JSON array, or of a `.jsonl` with one record per line, in order.

    Raises:
        InputError: The file is missing or no JSON, or a record lacks a field; names both.
    """
    if storage.stat(uri) is None:
        raise InputError(uri, "no such file")
    for number, record in enumerate(read_records(uri), 1):
        yield _conversation(uri, number, record)


def _conversation(uri: str, number: int, record: Any) -> Conversation | Unusable:
    def refuse(field: str, found: Any, needed: str) -> InputError:
        name = f" (id {record['id']})" if isinstance(record, dict) and "id" in record else ""
        place = f"record {number}{name}" + (f", field {field}" if field else "")
        return InputError(uri, f"{place}: found {_short(found)}, needed {needed}")

    if not isinstance(record, dict):
        raise refuse("", record, "an object")
    said = record.get("conversations")
    if not isinstance(said, list):
        raise refuse("conversations", said, "a list of turns")
    for at, turn in enumerate(said):
        for field in ("from", "value"):
            found = turn.get(field) if isinstance(turn, dict) else turn
            if not isinstance(found, str):
                raise refuse(f"conversations[{at}].{field}", found, "a text")
        if turn["from"] not in (HUMAN, ASSISTANT):
            raise refuse(f"conversations[{at}].from", turn["from"], f"{HUMAN} or {ASSISTANT}")
    image = record.get("image")
    if image is not None and not isinstance(image, str):
        raise refuse("image", image, "one path")
    return _paired(str(record.get("id", number)), image, said)


def _paired(
    sample_id: str, image: str | None, said: list[dict[str, str]]
) -> Conversation | Unusable:
    """Questions with their answers. As in the original, an answer to nothing in front is left
    out; so is a question without an answer at the end."""
    if said and said[0]["from"] == ASSISTANT:
        said = said[1:]
    said = said[: len(said) // 2 * 2]
    if any(turn["from"] != (HUMAN, ASSISTANT)[at % 2] for at, turn in enumerate(said)):
        return Unusable(sample_id, "turns_out_of_order")
    if not said:
        return Unusable(sample_id, "no_turns")
    asked = [turn["value"] for turn in said[::2]]
    marked = [number for number, text in enumerate(asked) for _ in range(text.count(IMAGE))]
    if image is None and marked:
        return Unusable(sample_id, "image_mark_without_image")
    if len(marked) > 1:
        return Unusable(sample_id, "two_images")
    # preprocess_multimodal: the mark moves to the front of its question, which is stripped.
    questions = [text.replace(IMAGE, "").strip() if IMAGE in text else text for text in asked]
    turns = tuple(zip(questions, (turn["value"] for turn in said[1::2]), strict=True))
    image_turn = None if image is None else (marked or [0])[0]
    return Conversation(sample_id, image, turns, image_turn)


def _short(found: Any) -> str:
    text = "nothing" if found is None else repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
