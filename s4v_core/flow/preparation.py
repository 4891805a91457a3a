"""A unit of the plan -> its pictures at the model's size: one read, then decoding on this CPU."""

import hashlib
import time
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core import storage
from s4v_core.captioning.prompts import ask
from s4v_core.captioning.twins import twin_key
from s4v_core.failpoints import reach
from s4v_core.flow.brake import Brake
from s4v_core.flow.spec import PassSpec
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.inputs.image_bytes import read_images, read_sidecar
from s4v_core.records import plan, units

_FIELDS: list[tuple[str, Any]] = [
    ("unit", pa.int32()),
    ("image_id", pa.string()),
    ("uri", pa.string()),
    ("source", pa.string()),
    ("prompt", pa.string()),
    # RGB rows from the top, or null beside a reason. Nothing larger travels.
    ("pixels", pa.large_binary()),
    ("pixel_width", pa.int32()),
    ("pixel_height", pa.int32()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("image_sha256", pa.string()),
    ("image_format", pa.string()),
    ("image_flags", pa.string()),
    # Equal images asked the same share it; null unless they are captioned once.
    ("twin_key", pa.string()),
    ("reason", pa.string()),
    ("read_s", pa.float64()),
    ("decode_s", pa.float64()),
]

PREPARED_SCHEMA = pa.schema(_FIELDS)
_PIXELS = PREPARED_SCHEMA.get_field_index("pixels")


def prepare_unit(batch: pa.Table, spec: PassSpec, brake: Brake) -> pa.Table:
    """One unit number in, one row per image out (PREPARED_SCHEMA).

    Empty where the unit's file exists already, or the brake is pulled.
    """
    if not batch.num_rows or brake.is_pulled():
        return PREPARED_SCHEMA.empty_table()
    with brake.reporting(), storage.patience(storage.UNIT_PATIENCE_S):
        return _prepared_unit(batch["unit"][0].as_py(), spec)


def _prepared_unit(unit: int, spec: PassSpec) -> pa.Table:
    if not spec.heal and storage.exists(units.unit_uri(spec.output, unit)):
        return PREPARED_SCHEMA.empty_table()
    started = time.monotonic()
    planned = plan.read_planned_unit(spec.output, unit).to_pylist()
    if spec.heal:
        failed = _failed_ids(spec.output, unit)
        planned = [row for row in planned if row["image_id"] in failed]
    if any(prompt.columns for prompt in spec.prompts):
        planned = [row | {"sidecar": read_sidecar(row["sidecar"])} for row in planned]
    reach("before_read")
    images = read_images(planned)
    read = time.monotonic()
    rows, pixels = [], PixelBuffer(len(images), spec.framing.max_bytes)
    for planned_row, image in zip(planned, images, strict=True):
        row = _prepared(planned_row, image, spec)
        pixels.append(row.pop("pixels"))
        rows.append(row)
    reach("after_decode")
    times = {"unit": unit, "read_s": read - started, "decode_s": time.monotonic() - read}
    others = PREPARED_SCHEMA.remove(_PIXELS)
    table = pa.Table.from_pylist([row | times for row in rows], schema=others)
    return table.add_column(_PIXELS, PREPARED_SCHEMA.field(_PIXELS), pixels.column())


class PixelBuffer:
    """A unit's pictures behind one another in one piece of memory, which goes back when they do.

    As values of their own they would lie between smaller ones on the heap, which then cannot
    shrink, and once more in a column that grows: a worker kept about 170 MiB of either.

    Args:
        pictures: How many will be appended, those that are missing included.
        most_bytes: Of the largest.
    """

    def __init__(self, pictures: int, most_bytes: int) -> None:
        self._bytes = np.empty(pictures * most_bytes, np.uint8)
        self._ends = [0]
        self._present: list[bool] = []

    def append(self, picture: bytes | None) -> None:
        start = self._ends[-1]
        self._ends.append(start + len(picture or b""))
        self._present.append(picture is not None)
        self._bytes[start : self._ends[-1]] = np.frombuffer(picture or b"", np.uint8)

    def column(self) -> "pa.Array[Any]":
        """All pictures, null where one is missing; a view, not a copy."""
        validity = pa.array(self._present, pa.bool_()).buffers()[1]
        ends = pa.array(self._ends, pa.int64()).buffers()[1]
        data = pa.py_buffer(self._bytes[: self._ends[-1]].data)
        count = len(self._present)
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, [validity, ends, data])


def _prepared(planned: dict[str, Any], image: bytes | str, spec: PassSpec) -> dict[str, Any]:
    row = dict.fromkeys(PREPARED_SCHEMA.names)
    row |= {name: planned[name] for name in ("image_id", "uri", "source")}
    prompt, unasked = ask(spec.prompts, planned)
    row["prompt"] = prompt
    if isinstance(image, str):
        return row | {"reason": image}
    sha256 = row["image_sha256"] = hashlib.sha256(image).hexdigest()
    if unasked:
        return row | {"reason": unasked}
    decoded = _decoder(spec.decode, spec.framing).decode(image)
    if isinstance(decoded, Refused):
        return row | {"reason": decoded.reason}
    return row | {
        "pixels": decoded.pixels,
        "pixel_width": decoded.pixel_width,
        "pixel_height": decoded.pixel_height,
        "width": decoded.width,
        "height": decoded.height,
        "image_format": decoded.format,
        "image_flags": decoded.flags,
        "twin_key": twin_key(spec.dedupe, sha256, decoded.pixels, decoded.pixel_width, prompt),
    }


@lru_cache(maxsize=1)
def _decoder(config: DecodeConfig, framing: Framing) -> GuardedDecoder:
    """One child per worker process: starting one costs as much as decoding ten images."""
    return GuardedDecoder(config, framing)


def _failed_ids(output: str, unit: int) -> set[str]:
    rows = units.read_unit(output, unit).select(["image_id", "status"]).to_pylist()
    return {row["image_id"] for row in rows if row["status"] != "ok"}
