"""Reads conversations from ShareGPT4V / LLaVA JSON, one after the other. Reads no image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.chat import IMAGE
from s4v_core.errors import InputError
from s4v_core.inputs.json_records import read_records

_HUMAN, _ASSISTANT = "human", "gpt"

_Refuse = Callable[[str, Any, str], InputError]
"""Builds the error for a field from its name, what was found and what was needed."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation about one image, or without an image.

    Attributes:
        sample_id: The record's id, or its number in the file.
        image: The image as the record names it; None for text only.
        turns: (question, answer) pairs, without image marks.
        image_turn: Index of the question that the image comes before; None without an image.
    """

    sample_id: str
    image: str | None
    turns: tuple[tuple[str, str], ...]
    image_turn: int | None


@dataclass(frozen=True, slots=True)
class Unusable:
    """A well-formed record that cannot be used for training.

    Reasons: turns_out_of_order, no_turns, image_mark_without_image, two_images.
    """

    sample_id: str
    reason: str


def read_conversations(uri: str) -> Iterator[Conversation | Unusable]:
    """Yield every record of a JSON array, or of a `.jsonl` with one record per line, in order.

    Raises:
        InputError: The file is missing or no JSON, or a record lacks a field, which is named.
    """
    if storage.stat(uri) is None:
        raise InputError(uri, "no such file")
    for number, record in enumerate(read_records(uri), 1):
        yield _parse_record(uri, number, record)


def _parse_record(uri: str, number: int, record: Any) -> Conversation | Unusable:
    def refuse(field: str, found: Any, needed: str) -> InputError:
        name = f" (id {record['id']})" if isinstance(record, dict) and "id" in record else ""
        place = f"record {number}{name}" + (f", field {field}" if field else "")
        return InputError(uri, f"{place}: found {_shorten(found)}, needed {needed}")

    if not isinstance(record, dict):
        raise refuse("", record, "an object")
    messages = _check_messages(record.get("conversations"), refuse)
    image = record.get("image")
    if image is not None and not isinstance(image, str):
        raise refuse("image", image, "one path")
    return _build_conversation(str(record.get("id", number)), image, messages)


def _check_messages(messages: Any, refuse: _Refuse) -> list[dict[str, str]]:
    if not isinstance(messages, list):
        raise refuse("conversations", messages, "a list of turns")
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise refuse(f"conversations[{at}]", message, "an object with from and value")
        for field in ("from", "value"):
            if not isinstance(message.get(field), str):
                raise refuse(f"conversations[{at}].{field}", message.get(field), "a text")
        if message["from"] not in (_HUMAN, _ASSISTANT):
            raise refuse(f"conversations[{at}].from", message["from"], f"{_HUMAN} or {_ASSISTANT}")
    return messages


def _build_conversation(
    sample_id: str, image: str | None, messages: list[dict[str, str]]
) -> Conversation | Unusable:
    turns = _pair_messages(messages)
    if turns is None:
        return Unusable(sample_id, "turns_out_of_order")
    if not turns:
        return Unusable(sample_id, "no_turns")
    marked = [number for number, (text, _) in enumerate(turns) for _ in range(text.count(IMAGE))]
    if image is None and marked:
        return Unusable(sample_id, "image_mark_without_image")
    if len(marked) > 1:
        return Unusable(sample_id, "two_images")
    image_turn = None if image is None else (marked or [0])[0]
    unmarked = tuple((_remove_mark(question), answer) for question, answer in turns)
    return Conversation(sample_id, image, unmarked, image_turn)


def _pair_messages(messages: list[dict[str, str]]) -> list[tuple[str, str]] | None:
    """Pair questions with their answers; None if the speakers do not alternate.

    As in the original, an answer at the start and a question at the end are left out.
    """
    if messages and messages[0]["from"] == _ASSISTANT:
        messages = messages[1:]
    questions, answers = messages[: len(messages) // 2 * 2 : 2], messages[1::2]
    pairs = list(zip(questions, answers, strict=True))
    if any((q["from"], a["from"]) != (_HUMAN, _ASSISTANT) for q, a in pairs):
        return None
    return [(question["value"], answer["value"]) for question, answer in pairs]


def _remove_mark(question: str) -> str:
    """The question without its image mark, stripped as preprocess_multimodal does when it moves the
    mark to the front."""
    return question.replace(IMAGE, "").strip() if IMAGE in question else question


def _shorten(found: Any) -> str:
    text = "nothing" if found is None else repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
