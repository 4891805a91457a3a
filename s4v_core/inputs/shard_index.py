"""The result of indexing one shard: its rows, its damages and its counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s4v_core import storage
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage
from s4v_core.records.schemas import index_schema

INDEX_SCHEMA = index_schema("image_id")
"""Columns of the plan's rows before they are cut into units."""

Row = dict[str, Any]
"""One image, with the columns of INDEX_SCHEMA."""


@dataclass(slots=True)
class ShardAccount:
    """What was found in one shard, besides its images. Grows while the shard is read.

    Attributes:
        images: Number of images.
        damages: Reasons why the shard is not proven complete.
        skipped: Number of members that are neither an image nor a sidecar, and of text-only
            records.
        captioned: Number of images that were left out because they have a caption already.
        repeated: Number of records that name an image again; an image gets one row.
    """

    images: int = 0
    damages: list[Damage] = field(default_factory=list)
    skipped: int = 0
    captioned: int = 0
    repeated: int = 0

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
        }


def build_row(**values: Any) -> Row:
    """A row with the columns of INDEX_SCHEMA; columns that are not given are None."""
    return dict.fromkeys(INDEX_SCHEMA.names) | values


def resolve_image(image: Any, root: str) -> tuple[str, str | None]:
    """URI of an image that a record names, and the reason why it must not be read, if any."""
    if not isinstance(image, str) or not image:
        return "", "not_found"
    if "://" in image:
        return image, None
    if image.startswith("/") or "\\" in image or ".." in image.split("/"):
        return image, "unsafe_path"
    return storage.join(storage.absolute(root), image), None


def dump_columns(values: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """A sidecar from some fields of a record: a JSON object without nulls; None if it is empty."""
    found = {name: values[name] for name in columns if values.get(name) is not None}
    return json.dumps(found, ensure_ascii=False, default=str) if found else None
