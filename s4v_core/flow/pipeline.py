"""The one durable flow: units stream through CPU decode tasks into engine actors and become files.

    units not done -> [read, decode, frame] -> [engine actor] -> [commit] -> accounts to driver

Ray Data streams, places and holds back; what is done is decided by the files alone.
"""

import logging
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from s4v_core import storage
from s4v_core.captioning.twins import Twins
from s4v_core.engines.requests import EngineSettings
from s4v_core.failpoints import reach
from s4v_core.flow.actor import TIMES, CaptionerActor
from s4v_core.flow.brake import Brake
from s4v_core.flow.preparation import prepare_unit
from s4v_core.flow.spec import COMMIT_CPUS, Engines, PassSpec, UnitDone
from s4v_core.records import plan, units
from s4v_core.records.schemas import RESULT_SCHEMA

NO_PROGRESS_LIMIT_S = 1800
"""Longer than a GPU node takes to start with a 7B model, shorter than a night."""

MAX_ACTOR_RESTARTS = 20
MAX_TASK_RETRIES = 1
"""Ray Data's own default is without end: a poisoned image would restart engines for ever."""


def needed_cpus(settings: EngineSettings, engines: int) -> float:
    """Logical CPUs below which the flow would stand still: the actors and one task of each kind."""
    return engines * settings.cpus + 1 + COMMIT_CPUS


def run_flow(
    spec: PassSpec, unit_numbers: Sequence[int], engines: Engines, brake: Brake
) -> Iterator[UnitDone]:
    """Caption the units; each comes out when its file is durable.

    One that fails does not come out, and its file is missing; the brake knows why, if it was one
    of our errors.
    """
    quiet_progress()
    context = DataContext.get_current()
    context.target_max_block_size = None  # one unit is one block; a limit would cut large ones
    context.execution_no_progress_timeout_s = NO_PROGRESS_LIMIT_S
    context.max_errored_blocks = -1  # a unit that fails is a missing file, and found as one
    dataset = ray.data.from_items(
        [{"unit": unit} for unit in unit_numbers], override_num_blocks=len(unit_numbers)
    )
    dataset = dataset.map_batches(
        prepare_unit,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"spec": spec, "brake": brake},
        num_cpus=1,
    )
    in_flight = spec.engine.settings.units_in_flight
    # Ray 2.60 deprecates every way to bound restarts, and has put nothing in its place.
    warnings.filterwarnings("ignore", ".*ray_remote_args_fn", RayDeprecationWarning)
    dataset = dataset.map_batches(
        CaptionerActor,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_kwargs={
            "spec": spec,
            "brake": brake,
            "twins": Twins() if spec.dedupe != "off" else None,
        },
        compute=ActorPoolStrategy(
            size=engines.count,
            max_concurrent_calls_per_actor=in_flight,
            max_tasks_in_flight_per_actor=in_flight + 1,
        ),
        ray_remote_args_fn=_finite_retries,
        **engine_resources(spec, engines),
    )
    dataset = dataset.map_batches(
        commit_unit,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"spec": spec, "brake": brake},
        num_cpus=COMMIT_CPUS,
    )
    try:
        for row in dataset.iter_rows():
            yield pickle.loads(row["done"])
    except ray.exceptions.RayError as error:
        raise (brake.first_failure() or error) from error


def commit_unit(batch: pa.Table, spec: PassSpec, brake: Brake) -> pa.Table:
    """Generated rows in, the unit's account out (a pickled UnitDone); the file is the commit."""
    if not batch.num_rows:
        return _DONE_SCHEMA.empty_table()
    with brake.reporting(), storage.patience(storage.UNIT_PATIENCE_S):
        done = commit(batch, spec)
        reach("before_ack")
    return pa.table({"done": [pickle.dumps(done)]}, _DONE_SCHEMA)


def commit(batch: pa.Table, spec: PassSpec) -> UnitDone:
    """Make a unit's generated rows (GENERATED_SCHEMA) durable.

    Raises:
        StorageError: They are not.
    """
    started = time.monotonic()
    # Of two nodes' clocks; what they differ by is little beside a queue that matters.
    queued_s = max(time.time() - batch["ended_at"][0].as_py(), 0.0)
    unit = batch["unit"][0].as_py()
    times = {name: batch[name][0].as_py() for name in TIMES}
    rows = batch.select(RESULT_SCHEMA.names).cast(RESULT_SCHEMA)
    if spec.heal:
        rows = _healed(units.read_unit(spec.output, unit), rows)
    planned = plan.read_planned_unit(spec.output, unit)["image_id"].to_pylist()
    found = rows["image_id"].to_pylist()
    assert found == planned, f"unit {unit}: found {len(found)} rows of {len(planned)} planned"
    account, wrote = units.commit_unit(
        spec.output, unit, spec.plan_digest, spec.run_id, rows, heal=spec.heal
    )
    return UnitDone(
        unit=unit,
        rows=account.rows,
        generated=batch.num_rows,
        generated_ok=batch.num_rows - batch["reason"].drop_null().length(),
        reasons=tuple(Counter(map(str, batch["reason"].drop_null().to_pylist())).items()),
        attempts=pc.sum(batch["attempts"]).as_py(),
        engine_starts=batch["engine_starts"][0].as_py(),
        ok=account.ok,
        rejected=account.rejected,
        error=account.error,
        output_tokens=account.output_tokens,
        wrote=wrote,
        queued_s=queued_s,
        commit_s=time.monotonic() - started,
        **times,
    )


def _healed(old: pa.Table, new: pa.Table) -> pa.Table:
    """The old rows of a unit, with those that were generated again in their places."""
    renewed = {row["image_id"]: row for row in new.to_pylist()}
    rows = [renewed.get(row["image_id"], row) for row in old.to_pylist()]
    return pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)


def engine_resources(spec: PassSpec, engines: Engines) -> dict[str, Any]:
    """What an engine actor holds.

    CPUs other than a decode task's keep Ray Data from fusing the two into one actor.
    """
    resources: dict[str, Any] = {
        "num_cpus": spec.engine.settings.cpus,
    }
    if spec.engine.device == "gpu":
        resources["num_gpus"] = 1
        if engines.accelerator:
            resources["accelerator_type"] = engines.accelerator
    elif spec.engine.settings.cpus == 1:
        resources["num_cpus"] = 1.01
    return resources


def _finite_retries() -> dict[str, Any]:
    return {"max_restarts": MAX_ACTOR_RESTARTS, "max_task_retries": MAX_TASK_RETRIES}


def quiet_progress() -> None:
    """One progress bar per job, and it is ours."""
    # What fails is raised, and said once.
    for noisy in ("_internal.progress", "_internal.execution", "exceptions"):
        logging.getLogger(f"ray.data.{noisy}").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


_DONE_SCHEMA = pa.schema({"done": pa.binary()})
