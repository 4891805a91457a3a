"""Faults of records against the schema of the published files, and oddities that do no harm."""

from dataclasses import dataclass
from typing import Any

from s4v_core.chat import IMAGE
from s4v_core.datasets.bad_fields import shorten
from s4v_core.datasets.conversations import Unusable, parse_record
from s4v_core.inputs.json_stream import BadRecord

_FIELDS = {"id", "image", "conversations"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record is left out of a cleaned file: the reason, the field, and what was found."""

    reason: str
    field: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True)
class RecordReading:
    """A record as training reads it.

    Attributes:
        fault: Why it cannot be used; None if it can.
        images: Names of its images.
        oddities: What is unlike the published files, and does no harm.
    """

    fault: Fault | None
    images: tuple[str, ...]
    oddities: tuple[str, ...]


def read_fields(uri: str, number: int, record: Any) -> RecordReading:
    """Read a record; its images are named even if it has a fault."""
    found = parse_record(uri, number, record)
    if isinstance(found, Unusable):
        images = _keep_names(record)
        return RecordReading(Fault(found.reason, found.field, found.found), images, ())
    images = tuple(image.name for image in found.images)
    fault = _find_image_fault(record, images) or _find_empty_answer(found.turns)
    return RecordReading(fault, images, tuple(_list_oddities(record)))


def is_unsafe(image: str) -> bool:
    """Whether a path could lead out of the folder of the images."""
    is_drive = image[1:3] in (":\\", ":/")
    return image.startswith("/") or "\\" in image or is_drive or ".." in image.split("/")


def _find_image_fault(record: dict[str, Any], images: tuple[str, ...]) -> Fault | None:
    if "image" in record and record["image"] in (None, "", []):
        return Fault("empty_image", "image", f"found {shorten(record['image'])}, needed a path")
    for image in images:
        if is_unsafe(image):
            needed = "a path below the images without .. and \\"
            return Fault("unsafe_path", "image", f"found {shorten(image)}, needed {needed}")
    return None


def _find_empty_answer(turns: tuple[tuple[str, str], ...]) -> Fault | None:
    if any(not answer.strip() for _, answer in turns):
        return Fault("empty_answer", "conversations", "found an empty answer, needed a text")
    return None


def _list_oddities(record: dict[str, Any]) -> list[str]:
    found = []
    if not isinstance(record.get("id"), str):
        found.append("id_missing" if record.get("id") is None else "id_not_text")
    if record.keys() - _FIELDS:
        found.append("further_fields")
    turns = record.get("conversations")
    if not isinstance(turns, list):
        return [*found, "other_layout"]
    if turns[0].get("from") == "gpt":
        found.append("leading_answer")
    if len(turns) % 2:
        found.append("unpaired_turn")
    if "image" in record and IMAGE not in str(turns[0].get("value")):
        found.append("mark_not_in_first_turn")
    return found


def _keep_names(record: Any) -> tuple[str, ...]:
    image = record.get("image") if isinstance(record, dict) else None
    return (image,) if isinstance(image, str) and image else ()


def name_record(record: Any) -> str | None:
    """A record's id as text; None without one."""
    if isinstance(record, BadRecord) or not isinstance(record, dict):
        return None
    return None if record.get("id") is None else str(record["id"])
