"""Reads the captions of a set: of a caption run, or of a file of records in any usual layout."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from s4v_core import storage
from s4v_core.datasets.messages import MESSAGE_FIELDS
from s4v_core.datasets.record_files import read_record_file
from s4v_core.errors import ConfigError, InputError
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import read_plan_head

_FIELDS = ("caption", "captions", "text", "answer", "description")
"""Fields of a record that hold its caption, in order of preference."""

_ANSWERERS = ("gpt", "assistant", "chatgpt", "model", "bot")


@dataclass(frozen=True, slots=True)
class CaptionSet:
    """A set of captions.

    Attributes:
        name: What it is called beside others.
        uri: Its file, or the folder of a caption run.
        field: Field or column of the captions; None to find it.
    """

    name: str
    uri: str
    field: str | None = None

    def read(self, limit: int | None = None) -> Iterator[str]:
        """Yield the captions in order.

        Raises:
            InputError: There is no such file or run, or no caption in it.
        """
        texts = _read_run(self.uri, self.field) if is_run(self.uri) else self._read_file()
        return islice(texts, limit)

    def _read_file(self) -> Iterator[str]:
        fields: dict[str, None] = {}
        is_empty = True
        for span in read_record_file(self.uri, keeps_bad=True):
            for text in list_texts(span.value, self.field):
                is_empty = False
                yield text
            if is_empty and isinstance(span.value, dict):
                fields |= dict.fromkeys(span.value)
        if is_empty:
            found = ", ".join(list(fields)[:20]) or "no records"
            raise InputError(self.uri, f"no captions: found fields {found}; name one by --field")


def name_sets(places: tuple[str, ...], field: str | None) -> list[CaptionSet]:
    """The sets of these places, each named differently; `PLACE#FIELD` names a field of its own.

    Raises:
        ConfigError: There are none.
    """
    if not places:
        raise ConfigError("captions: found none, needed files, or folders of caption runs")
    sets: dict[str, CaptionSet] = {}
    for place in places:
        uri, mark, own = place.rpartition("#")
        if not mark or storage.stat(place):
            uri, own = place, ""
        base = re.sub(r"\.(json|jsonl|ndjson|parquet)(\.\w+)?$", "", storage.base_name(uri))
        name = f"{base} {own}".strip()
        while name in sets:
            name += "'"
        sets[name] = CaptionSet(name, uri, own or field)
    return list(sets.values())


def list_texts(record: Any, field: str | None) -> list[str]:
    """The captions of a record: usually one."""
    if isinstance(record, str):
        return [record] if field is None else []
    if not isinstance(record, dict):
        return []
    if field is not None:
        return _keep_texts(record.get(field))
    for name in MESSAGE_FIELDS:
        if isinstance(record.get(name), list):
            return _find_answer(record[name])
    for name in _FIELDS:
        if texts := _keep_texts(record.get(name)):
            return texts
    values = list(record.values())  # {path: caption}, as the original's script writes
    return _keep_texts(values[0]) if len(values) == 1 else []


def _find_answer(turns: list[Any]) -> list[str]:
    for turn in turns:
        if isinstance(turn, dict) and turn.get("from", turn.get("role")) in _ANSWERERS:
            return _keep_texts(turn.get("value", turn.get("content")))[:1]
    return []


def _keep_texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text.strip()]


def is_run(uri: str) -> bool:
    """Whether a place is the folder of a run."""
    return storage.stat(uri) is None and read_plan_head(uri) is not None


def _read_run(output: str, field: str | None) -> Iterator[str]:
    head = read_plan_head(output)
    assert head, "a run has a plan"
    units = caption_units(output, head.settings)
    for unit in sorted(units.list_done()):
        for row in units.read(unit).to_pylist():
            if row["status"] == "ok":
                yield from _keep_texts(row.get(field or "caption"))
