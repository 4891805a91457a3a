"""Entries: the JSON files that stages hand on, and that may come from elsewhere.

An entry is one record in the making: {"id", "ability", "prompts", "question", "answer", "images"}.
The released files of StableLLaVA (id, image, prompt, question, answer) are read as they are.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from s4v_core import storage
from s4v_core.chat import IMAGE
from s4v_core.errors import InputError


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in the making.

    Attributes:
        entry_id: Unique among entries; names of images begin with it.
        prompts: One image prompt per image.
        question, answer: The dialogue; empty until it is written.
        images: Names of the images, where they were made elsewhere.
    """

    entry_id: str
    ability: str
    prompts: tuple[str, ...]
    question: str = ""
    answer: str = ""
    images: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All prompts as one text."""
        return " | ".join(self.prompts)

    def name_images(self) -> tuple[str, ...]:
        """Ids of the images that are drawn for it."""
        numbers = range(len(self.prompts))
        return tuple(f"{_plain(self.ability)}/{self.key}-{number}" for number in numbers)

    @property
    def key(self) -> str:
        """Its id as names of files hold it."""
        return _plain(self.entry_id)


def read_entries(uri: str) -> list[Entry]:
    """The entries of a file.

    Raises:
        InputError: There is no such file, or it is no JSON array of entries.
    """
    if storage.stat(uri) is None:
        raise InputError(uri, "there is no such file; run the stage before, or name its result")
    try:
        rows = json.loads(storage.read(uri))
    except ValueError as error:
        raise InputError(uri, f"is no JSON: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(uri, "is no JSON array of records, or an empty one")
    entries = [_build_entry(uri, number, row) for number, row in enumerate(rows, 1)]
    seen: set[str] = set()
    for entry in entries:
        if entry.key in seen:
            raise InputError(uri, f"two records have the id {entry.entry_id!r}")
        seen.add(entry.key)
    return entries


def write_entries(uri: str, entries: Iterable[Entry]) -> None:
    """Write entries as the JSON that `read_entries` reads; replaces what the stage wrote before."""
    rows = [{"id": one.entry_id, **asdict(one)} for one in entries]
    for row in rows:
        del row["entry_id"]
    storage.replace(uri, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())


def fill_in(entry: Entry, question: str, answer: str) -> Entry:
    return replace(entry, question=question, answer=answer)


def _build_entry(uri: str, number: int, row: Any) -> Entry:
    if not isinstance(row, Mapping):
        raise InputError(uri, f"record {number} is no object")
    prompts = row.get("prompts", row.get("prompt"))
    prompts = [prompts] if isinstance(prompts, str) else prompts
    images = row.get("images", row.get("image")) or ()
    images = [images] if isinstance(images, str) else images
    if not _is_texts(prompts) or not prompts or not _is_texts(images):
        raise InputError(uri, f"record {number} has no prompt, or images that are no names")
    ability = row.get("ability") or _find_ability(images)
    if not isinstance(ability, str) or not ability:
        raise InputError(uri, f"record {number} names no ability, and no folder of its image does")
    entry_id = str(row.get("id", number - 1))
    has_own_id = re.fullmatch(r"\d+", entry_id) is None
    return Entry(
        entry_id if has_own_id else f"{ability}-{entry_id}",
        ability,
        tuple(" ".join(one.split()) for one in prompts),
        str(row.get("question") or "").replace(IMAGE, "").strip(),
        str(row.get("answer") or "").strip(),
        tuple(images),
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name)


def _find_ability(images: Sequence[str]) -> str:
    """The folder of an image, as in color/0.jpg."""
    return storage.base_name(storage.parent(images[0])) if images and "/" in images[0] else ""


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
