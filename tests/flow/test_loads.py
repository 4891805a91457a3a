"""The load of engines on its way from the worker to the driver, without Ray or an engine."""

import pickle
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.flow.actor import generated_schema
from s4v_core.flow.pipeline import commit_rows
from s4v_core.flow.spec import FlowSpec
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.runs.figures import Times
from tests.runs.finished_run import write_run

MEASURED = {"unit": 0, "engine_starts": 0, "ended_at": 0.0} | dict.fromkeys(
    ("read_s", "decode_s", "generate_s", "idle_s"), 0.0
)


@pytest.fixture
def spec(tmp_path: Path) -> FlowSpec:
    """A run whose first unit was generated and is not there yet."""
    output = str(tmp_path / "out")
    head = write_run(tmp_path / "out", tmp_path, 40)
    engine = EngineSpec("fake", "none", "none", EngineSettings(), "cpu")
    task = cast(Any, type("Captions", (), {"contract": CAPTIONS})())
    return FlowSpec(output, head.parts, "run", engine, task)


def _take_generated(spec: FlowSpec, loads: dict[int, EngineLoad]) -> pa.Table:
    """The rows of unit 0 as its worker gave them, with loads in some of them."""
    units = caption_units(spec.output)
    rows = units.read(0).to_pylist()
    (Path(units.folder) / "unit-000000.parquet").unlink()
    packed = {row: pickle.dumps(load) for row, load in loads.items()}
    made = [row | MEASURED | {"load": packed.get(n)} for n, row in enumerate(rows)]
    return pa.Table.from_pylist(made, schema=generated_schema(CAPTIONS))


def test_the_loads_of_a_unit_that_came_in_parts_are_summed(spec: FlowSpec) -> None:
    parts = {0: EngineLoad(places=8, steps=3), 20: EngineLoad(places=8, steps=4)}
    done = commit_rows(_take_generated(spec, parts), spec)
    assert done.wrote
    assert done.load == EngineLoad(places=8, steps=7)
    times = Times()
    times.add(done)
    times.add(done)
    assert times.load == EngineLoad(places=8, steps=14)


def test_a_unit_of_an_engine_that_tells_nothing_has_no_load(spec: FlowSpec) -> None:
    done = commit_rows(_take_generated(spec, {}), spec)
    assert done.wrote
    assert done.load is None
    times = Times()
    times.add(done)
    assert times.load is None
