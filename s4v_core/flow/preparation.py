"""A unit of the plan -> rows that are ready for the engine: one read, then the task on this CPU."""

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
from s4v_core.records import plan
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
    if not spec.heal and spec.units.exists(unit):
        return PREPARED_SCHEMA.empty_table()
    started = time.monotonic()
    planned = plan.read_planned_unit(spec.output, unit).to_pylist()
    if spec.heal:
        key, failed = spec.task.contract.key, _find_failed_keys(spec.units, unit)
        planned = [row for row in planned if row[key] in failed]
    reach("before_read")
    planned, contents = load_rows(planned, spec.task.reads_payloads, spec.task.max_file_bytes)
    read = time.monotonic()
    rows, pixels = [], PixelBuffer(len(planned), spec.task.picture_bytes)
    for row, content in zip(planned, contents, strict=True):
        prepared = spec.task.prepare(row, content)
        shapes = pickle.dumps(pixels.append(prepared.pictures))
        rows.append({"about": pickle.dumps(prepared.about), "shapes": shapes})
    reach("after_decode")
    times = {"unit": unit, "read_s": read - started, "decode_s": time.monotonic() - read}
    others = PREPARED_SCHEMA.remove(_PIXELS)
    table = pa.Table.from_pylist([row | times for row in rows], schema=others)
    return table.add_column(_PIXELS, PREPARED_SCHEMA.field(_PIXELS), pixels.column())


def _find_failed_keys(units: UnitFolder, unit: int) -> set[str]:
    rows = units.read(unit).select([units.contract.key, "status"]).to_pylist()
    return {row[units.contract.key] for row in rows if row["status"] != "ok"}
