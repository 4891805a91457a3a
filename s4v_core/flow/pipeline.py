"""The one durable flow: units stream through CPU tasks into engine workers and become files.

    units not done -> [read, prepare] -> [engine worker] -> [commit] -> accounts to the driver

Ray Data streams, places and applies backpressure; the files alone decide what is done.
"""

import logging
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial, reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from s4v_core import storage
from s4v_core.engines.engine_load import add_loads
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import StorageError
from s4v_core.failpoints import reach
from s4v_core.flow.actor import TIMES, EngineActor
from s4v_core.flow.brake import Brake
from s4v_core.flow.placement import engine_resources, free_places, place_engine
from s4v_core.flow.preparation import prepare_unit
from s4v_core.flow.spec import COMMIT_CPUS, Engines, FlowSpec, UnitDone
from s4v_core.records.contract import Contract
from s4v_core.records.plan import list_digests, require_plan_head
from s4v_core.records.unit_shards import FILES_FIELD, RowFiles, UnitShards
from s4v_core.records.units import UnitAccount

_NO_PROGRESS_LIMIT_S = 1800
"""Longer than a GPU node takes to start with a 7B model, shorter than a night."""

_MAX_ACTOR_RESTARTS = 20
_MAX_TASK_RETRIES = 1
"""Ray Data retries without end by default: one poisoned image would restart engines for ever."""

_DONE_SCHEMA = pa.schema({"done": pa.binary()})


def needed_cpus(settings: EngineSettings, engines: int) -> float:
    """Fewest logical CPUs with which the flow can move: its actors and one task of each kind."""
    return engines * settings.reserved_cpus + 1 + COMMIT_CPUS


def run_flow(
    spec: FlowSpec, unit_numbers: Sequence[int], engines: Engines, brake: Brake
) -> Iterator[UnitDone]:
    """Run the units; each comes out when its file is durable.

    A unit that fails does not come out, and its file is missing; the brake knows why, if it was one
    of our errors.
    """
    silence_ray_data()
    context = DataContext.get_current()
    context.target_max_block_size = None  # one unit is one block; a limit would cut large ones
    context.execution_no_progress_timeout_s = _NO_PROGRESS_LIMIT_S
    # A detector would call the function that places engines with each look, and place another one.
    context.issue_detectors_config.detectors = []
    context.max_errored_blocks = -1  # a unit that fails is a missing file, and found as one
    dataset = ray.data.from_items(
        [{"unit": unit} for unit in unit_numbers], override_num_blocks=len(unit_numbers)
    )
    whole_units: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    shared = {"spec": spec, "brake": brake}
    dataset = dataset.map_batches(prepare_unit, fn_kwargs=shared, num_cpus=1, **whole_units)
    in_flight = spec.units_in_flight
    # Ray 2.60 deprecates every way to bound restarts, and offers nothing in its place.
    warnings.filterwarnings("ignore", ".*ray_remote_args_fn", RayDeprecationWarning)
    dataset = dataset.map_batches(
        EngineActor,
        fn_constructor_kwargs=shared,
        compute=ActorPoolStrategy(
            size=engines.count,
            max_concurrent_calls_per_actor=in_flight,
            max_tasks_in_flight_per_actor=in_flight + 1,
        ),
        ray_remote_args_fn=partial(_place_and_bound, spec, engines),
        **engine_resources(spec, engines),
        **whole_units,
    )
    dataset = dataset.map_batches(
        commit_block, fn_kwargs=shared, num_cpus=COMMIT_CPUS, **whole_units
    )
    try:
        for row in dataset.iter_rows():
            yield pickle.loads(row["done"])
    except ray.exceptions.RayError as error:
        raise (brake.first_failure() or error) from error
    finally:
        free_places(spec)


def commit_block(batch: pa.Table, spec: FlowSpec, brake: Brake) -> pa.Table:
    """The commit as a Ray Data task: a unit's generated rows in, a pickled UnitDone out."""
    if not batch.num_rows:
        return _DONE_SCHEMA.empty_table()
    with brake.reporting(), storage.patience(storage.UNIT_PATIENCE_S):
        done = commit_rows(batch, spec)
        reach("before_ack")
    return pa.table({"done": [pickle.dumps(done)]}, _DONE_SCHEMA)


def commit_rows(batch: pa.Table, spec: FlowSpec) -> UnitDone:
    """Make a unit's generated rows (`generated_schema`) durable.

    Raises:
        StorageError: They are not.
    """
    started = time.monotonic()
    # Two nodes' clocks: their skew is small against any queue worth reporting.
    queued_s = max(time.time() - batch["ended_at"][0].as_py(), 0.0)
    contract = spec.task.contract
    unit = batch["unit"][0].as_py()
    times = {name: batch[name][0].as_py() for name in TIMES}
    rows = batch.select(contract.schema.names).cast(contract.schema)
    files = batch[FILES_FIELD.name].to_pylist() if contract.shards else [None] * rows.num_rows
    account, wrote = _commit_unit(unit, rows, spec, files)
    reasons = batch["reason"].drop_null().to_pylist()
    loads = (pickle.loads(load.as_py()) for load in batch["load"].drop_null())
    return UnitDone(
        unit=unit,
        rows=account.rows,
        generated=batch.num_rows,
        generated_ok=batch.num_rows - len(reasons),
        reasons=tuple(Counter(map(str, reasons)).items()),
        attempts=pc.sum(batch["attempts"]).as_py(),
        engine_starts=batch["engine_starts"][0].as_py(),
        ok=account.ok,
        rejected=account.rejected,
        error=account.error,
        sums=account.sums,
        load=reduce(add_loads, loads, None),
        wrote=wrote,
        queued_s=queued_s,
        commit_s=time.monotonic() - started,
        **times,
    )


def _commit_unit(
    unit: int, rows: pa.Table, spec: FlowSpec, files: Sequence[RowFiles]
) -> tuple[UnitAccount, bool]:
    """Write a unit's file, or put its new rows into the file that is there.

    Files of rows are durable before the unit is: their tar is written first. A unit's file that
    another run wrote for a later part of the plan is newer than these rows, and stays.
    """
    outdated, contract = spec.find_outdated_keys(unit), spec.task.contract
    if outdated is not None and (newer := _find_newer(unit, spec)):
        return newer, False
    planned = spec.read_planned(unit)[contract.key].to_pylist()
    heal = outdated is not None and (spec.heal or bool(outdated))
    if contract.shards:
        rows = UnitShards(spec.output, contract).write(unit, rows, files)
    if heal:
        rows = _merge_healed(spec.units.read(unit), rows, contract)
    elif outdated is not None and rows.num_rows < len(planned):
        return spec.units.read_account(unit), False  # another run has put in the new rows
    found = rows[contract.key].to_pylist()
    assert found == planned, f"unit {unit}: found {len(found)} rows of {len(planned)} planned"
    try:
        digest = spec.find_digest(unit)
        return spec.units.commit(unit, digest, spec.run_id, rows, heal=heal)
    except StorageError:
        if newer := _find_newer(unit, spec):  # it came a moment ago
            return newer, False
        raise


def _find_newer(unit: int, spec: FlowSpec) -> UnitAccount | None:
    """The account of a unit's file if it was written for a later part of the plan."""
    if not spec.units.exists(unit):
        return None
    account = spec.units.read_account(unit)
    if account.plan in list_digests(spec.parts, unit):
        return None
    now = require_plan_head(spec.output).parts
    return account if account.plan in list_digests(now, unit) else None


def _merge_healed(old: pa.Table, new: pa.Table, contract: Contract) -> pa.Table:
    """The old rows of a unit, with those that were generated again in their places."""
    renewed = {row[contract.key]: row for row in new.to_pylist()}
    rows = [renewed.get(row[contract.key], row) for row in old.to_pylist()]
    return pa.Table.from_pylist(rows, schema=contract.schema)


def _place_and_bound(spec: FlowSpec, engines: Engines) -> dict[str, Any]:
    """Ray options of one more engine worker, beside its resources."""
    bounds = {"max_restarts": _MAX_ACTOR_RESTARTS, "max_task_retries": _MAX_TASK_RETRIES}
    return bounds | place_engine(spec, engines)


def silence_ray_data() -> None:
    """Each job has one progress bar, which is ours; errors are raised and reported once."""
    for noisy in ("_internal.progress", "_internal.execution", "exceptions"):
        logging.getLogger(f"ray.data.{noisy}").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
