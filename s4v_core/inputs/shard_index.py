"""The result of indexing one shard: its rows, its damages and its counts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage
from s4v_core.records.schemas import index_schema

INDEX_SCHEMA = index_schema("image_id")
"""Columns of the plan's rows before they are cut into units."""

Row = dict[str, Any]
"""One image, with the columns of INDEX_SCHEMA."""

_EMPTY_ROW: Row = dict.fromkeys(INDEX_SCHEMA.names)


@dataclass(slots=True)
class ShardAccount:
    """Counts and damages of one shard. Grows while the shard is read.

    Attributes:
        images: Number of images.
        damages: Reasons why the shard is not proven complete.
        skipped: Number of members that are neither an image nor a sidecar, of text-only records,
            and of rows whose list of images is null or empty.
        captioned: Number of images that were left out because they have a caption already.
        repeated: Number of records that name an image again; an image gets one row.
        notes: Sentences about choices that the user could make otherwise.
    """

    images: int = 0
    damages: list[Damage] = field(default_factory=list)
    skipped: int = 0
    captioned: int = 0
    repeated: int = 0
    notes: list[str] = field(default_factory=list)

    def describe(self, shard: Shard) -> dict[str, Any]:
        """The shard's entry in the plan's metadata."""
        return {
            "uri": shard.uri,
            "name": shard.name,
            "kind": shard.kind,
            "images": self.images,
            "skipped": self.skipped,
            "captioned": self.captioned,
            "repeated": self.repeated,
            "damages": [{"kind": d.kind, "offset": d.offset} for d in self.damages],
            "notes": self.notes,
        }


def build_row(**values: Any) -> Row:
    """A row with the columns of INDEX_SCHEMA; columns that are not given are None."""
    return {**_EMPTY_ROW, **values}


def dump_columns(values: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """A sidecar from some fields of a record: a JSON object without nulls; None if it is empty."""
    found = {name: values[name] for name in columns if values.get(name) is not None}
    found = {name: value for name, value in found.items() if not _is_no_number(value)}
    if not found:
        return None
    return clean_text(json.dumps(found, ensure_ascii=False, default=str))


def clean_text(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _is_no_number(value: Any) -> bool:
    """Whether it is NaN or infinite, for which JSON has no word."""
    return isinstance(value, float) and not math.isfinite(value)
