"""A unit of the plan -> rows that are ready for the engine: one read, then the task on this CPU."""

import hashlib
import pickle
import time
from typing import Any

import pyarrow as pa

from s4v_core import storage
from s4v_core.failpoints import reach
from s4v_core.flow.brake import Brake
from s4v_core.flow.loading import load_rows
from s4v_core.flow.pixels import PixelBuffer
from s4v_core.flow.spec import FlowSpec
from s4v_core.records.units import UnitFolder

_FIELDS: list[tuple[str, Any]] = [
    ("unit", pa.int32()),
    # The task's notes about the row (pickled Prepared.about).
    ("about", pa.binary()),
    # RGB rows from the top, of all pictures of the row. Nothing larger travels.
    ("pixels", pa.large_binary()),
    ("shapes", pa.binary()),
    ("read_s", pa.float64()),
    ("decode_s", pa.float64()),
]

Row = dict[str, Any]
Content = bytes | str | None
"""A row's bytes, or the reason why there are none, or None for a row without a file."""

PREPARED_SCHEMA = pa.schema(_FIELDS)
_PIXELS = PREPARED_SCHEMA.get_field_index("pixels")


def prepare_unit(batch: pa.Table, spec: FlowSpec, brake: Brake) -> pa.Table:
    """One unit number in, one row per planned row out (PREPARED_SCHEMA).

    Empty if the unit's file exists already, or the brake is pulled.
    """
    if not batch.num_rows or brake.is_pulled():
        return PREPARED_SCHEMA.empty_table()
    with brake.reporting(), storage.patience(storage.UNIT_PATIENCE_S):
        return _prepare(batch["unit"][0].as_py(), spec)


def _prepare(unit: int, spec: FlowSpec) -> pa.Table:
    outdated = spec.find_outdated_keys(unit)
    if not spec.heal and outdated == set():
        return PREPARED_SCHEMA.empty_table()
    started = time.monotonic()
    planned = spec.read_planned(unit).to_pylist()
    if outdated is not None:
        wanted = outdated | (_find_failed_keys(spec.units, unit) if spec.heal else set())
        planned = [row for row in planned if row[spec.task.contract.key] in wanted]
    reach("before_read")
    task = spec.task
    planned, contents = load_rows(planned, task.reads_payloads, task.max_file_bytes, task.web)
    if outdated:
        planned, contents = _leave_out_equal(unit, planned, contents, spec)
    read = time.monotonic()
    rows, pixels = [], PixelBuffer(len(planned), spec.task.picture_bytes)
    for row, content in zip(planned, contents, strict=True):
        prepared = spec.task.prepare(row, content)
        shapes = pickle.dumps(pixels.append(prepared.pictures))
        rows.append({"about": pickle.dumps(prepared.about), "shapes": shapes})
    reach("after_decode")
    if not rows:
        return PREPARED_SCHEMA.empty_table()
    times = {"unit": unit, "read_s": read - started, "decode_s": time.monotonic() - read}
    others = PREPARED_SCHEMA.remove(_PIXELS)
    table = pa.Table.from_pylist([row | times for row in rows], schema=others)
    return table.add_column(_PIXELS, PREPARED_SCHEMA.field(_PIXELS), pixels.column())


def _leave_out_equal(
    unit: int, planned: list[Row], contents: list[Content], spec: FlowSpec
) -> tuple[list[Row], list[Content]]:
    """Leave out rows whose files are new but hold what they held: a copied folder has new times.

    If no row is left, the unit's file only has to say that it is up to date.
    """
    old, key = spec.units.read(unit), spec.task.contract.key
    if "image_sha256" not in old.column_names:
        return planned, contents
    known = {row[key]: row for row in old.select([key, "status", "image_sha256"]).to_pylist()}

    def is_equal(row: Row, content: Content) -> bool:
        if not isinstance(content, bytes) or known[row[key]]["status"] != "ok":
            return False
        digest: str = known[row[key]]["image_sha256"]
        return hashlib.sha256(content).hexdigest() == digest

    left = [pair for pair in zip(planned, contents, strict=True) if not is_equal(*pair)]
    if not left:
        spec.units.commit(unit, spec.find_digest(unit), spec.run_id, old, heal=True)
    return [row for row, _ in left], [content for _, content in left]


def _find_failed_keys(units: UnitFolder, unit: int) -> set[str]:
    rows = units.read(unit).select([units.contract.key, "status"]).to_pylist()
    return {row[units.contract.key] for row in rows if row["status"] != "ok"}
