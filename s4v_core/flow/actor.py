"""The worker that holds an engine: prepared units in, result rows out, several units at once."""

import asyncio
import pickle
import time
from typing import Any

import pyarrow as pa

from s4v_core.engines.choice import start_engine
from s4v_core.engines.engine_load import take_load
from s4v_core.errors import S4VError
from s4v_core.failpoints import reach
from s4v_core.flow.brake import Brake
from s4v_core.flow.lease import report_lease
from s4v_core.flow.pixels import Shapes, view_pictures, view_rows
from s4v_core.flow.spec import FlowSpec
from s4v_core.flow.task import Row, stamp_row
from s4v_core.flow.trial import EngineTrial
from s4v_core.records.contract import Contract
from s4v_core.records.schemas import table_of
from s4v_core.records.unit_shards import FILES_FIELD

TIMES = ("read_s", "decode_s", "generate_s", "idle_s")
_EXTRA: list["pa.Field[Any]"] = [
    pa.field("unit", pa.int32()),
    pa.field("engine_starts", pa.int32()),
    pa.field("ended_at", pa.float64()),
    pa.field(
        "load", pa.binary()
    ),  # a pickled EngineLoad, in the first row of those that came at once
    *(pa.field(name, pa.float64()) for name in TIMES),
]


def generated_schema(contract: Contract) -> pa.Schema:
    """A contract's rows on their way to the commit, with their files and what the flow measured."""
    files = [FILES_FIELD] if contract.shards else []
    return pa.schema([*contract.schema, *files, *_EXTRA])


class EngineActor:
    """One per accelerator; holds its engine for the whole run."""

    def __init__(self, spec: FlowSpec, brake: Brake) -> None:
        self._spec, self._brake = spec, brake
        self._schema = generated_schema(spec.task.contract)
        report_lease(brake)  # loading is part of what an engine costs
        # Ray keeps only the text of what a constructor raises; the first call raises it whole.
        self._failure: S4VError | None = None
        try:
            self._engine = start_engine(spec.engine, spec.task.meter)
            in_flight = spec.units_in_flight
            name = spec.engine.name
            self._trial = EngineTrial(self._engine, name, spec.trial_rows, in_flight, brake)
        except S4VError as error:
            self._failure = error
        self._reported_starts = 1
        self._clock = _BusyClock()

    async def __call__(self, prepared: pa.Table) -> pa.Table:
        """PREPARED_SCHEMA in, `generated_schema` out; rows keep their order.

        Empty if nothing was prepared, or if the brake was pulled or another run committed the unit
        before its turn came.
        """
        if not prepared.num_rows or await self._brake.is_pulled_now():
            return self._schema.empty_table()
        unit = prepared["unit"][0].as_py()
        if not self._spec.heal and await asyncio.to_thread(self._spec.is_done, unit):
            return self._schema.empty_table()
        with self._brake.reporting():
            return await self._answer_unit(prepared)

    async def _answer_unit(self, prepared: pa.Table) -> pa.Table:
        if self._failure:
            raise self._failure
        idle_s = self._clock.begin()
        try:
            rows = prepared.drop_columns("pixels").to_pylist()
            reach("in_generate")
            pixels = view_rows(prepared["pixels"])
            async with self._trial.unit(len(rows)):
                done = await asyncio.gather(*map(self._answer_row, rows, pixels))
        finally:
            busy_s = self._clock.end()
        measured: Row = {"generate_s": busy_s, "idle_s": idle_s, "ended_at": time.time()}
        measured |= {"engine_starts": self._count_new_starts(), "load": None}
        measured |= {name: rows[0][name] for name in ("unit", "read_s", "decode_s")}
        found = [row | measured for row in done]
        if load := take_load(self._engine):
            found[0]["load"] = pickle.dumps(load)
        return table_of(found, self._schema, f"unit {rows[0]['unit']}")

    async def _answer_row(self, row: dict[str, Any], pixels: memoryview) -> Row:
        """A result row, complete as soon as its answer is: its `created_at` is its own."""
        shapes: Shapes = pickle.loads(row["shapes"])
        pictures = view_pictures(pixels, shapes)
        done = await self._spec.task.answer(pickle.loads(row["about"]), pictures, self._trial)
        return stamp_row(done, self._spec.run_id)

    def _count_new_starts(self) -> int:
        starts = self._engine.starts
        new, self._reported_starts = starts - self._reported_starts, starts
        return new


def fail_rows(prepared: pa.Table, reason: str, spec: FlowSpec) -> pa.Table:
    """PREPARED_SCHEMA in, `generated_schema` out: rows that no worker gave an answer for."""
    rows = prepared.drop_columns("pixels").to_pylist()
    measured: Row = {"generate_s": 0.0, "idle_s": 0.0, "engine_starts": 0, "load": None}
    measured |= {"ended_at": time.time()}
    measured |= {name: rows[0][name] for name in ("unit", "read_s", "decode_s")}
    failed = [spec.task.fail(pickle.loads(row["about"]), reason) for row in rows]
    failed = [stamp_row(row, spec.run_id) | measured for row in failed]
    return table_of(failed, generated_schema(spec.task.contract), "rows without an answer")


class _BusyClock:
    """Time with and without work, however many units overlap: both add up to the whole."""

    def __init__(self) -> None:
        self._active = 0
        self._since: float | None = None  # the wait for the first unit counts as neither

    def begin(self) -> float:
        """A unit arrives; returns the seconds for which there was none."""
        self._active += 1
        if self._active > 1:
            return 0.0
        now = time.monotonic()
        idle_s = 0.0 if self._since is None else now - self._since
        self._since = now
        return idle_s

    def end(self) -> float:
        """A unit leaves; returns the busy seconds since the last unit left, or arrived after
        none."""
        assert self._since is not None, "a unit ends after it began"
        self._active -= 1
        now = time.monotonic()
        busy_s, self._since = now - self._since, now
        return busy_s
