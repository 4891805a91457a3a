"""Units to the end, also those whose worker died under them: rounds of the flow, then one by one.

A row can take down the whole process around an engine (memory, a crash of native code). Ray drops
its unit after a few tries; here the unit is tried again in halves until the row that no worker
survives is alone. It becomes a failed row; its neighbours get their answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray

from s4v_core import storage
from s4v_core.flow.actor import EngineActor, fail_rows, generated_schema
from s4v_core.flow.brake import Brake
from s4v_core.flow.pipeline import commit_rows, run_flow
from s4v_core.flow.placement import engine_resources, free_places, place_engine
from s4v_core.flow.preparation import prepare_unit
from s4v_core.flow.spec import Engines, FlowSpec, UnitDone

_WORKER_DIED = "worker_died"
"""Reason of a row that no worker survives."""

_DEATHS_ALONE = 2
"""Workers that must die with one row and nothing else before it is to blame: a node may die of
itself."""

_WORKER_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,  # the worker was done, and its node died with the answer
)

_FEW_UNITS = 8
"""Up to so many left over units are run one by one; more go through the flow again, as long as that
finishes any of them."""


def run_units(
    spec: FlowSpec, unit_numbers: Sequence[int], engines: Engines, brake: Brake
) -> Iterator[UnitDone]:
    """Run the units; each comes out when its file is durable.

    Raises:
        S4VError: A store or an engine fails as a whole. What is done stays done.
    """
    left = list(unit_numbers)
    while left:
        finished = set()
        for done in run_flow(spec, left, engines, brake):
            finished.add(done.unit)
            yield done
        if failure := brake.first_failure():
            raise failure
        if brake.is_pulled():
            return
        before, left = len(left), [u for u in left if u not in finished and _is_missing(spec, u)]
        if len(left) <= _FEW_UNITS or len(left) == before:
            break
    if left:
        yield from _run_one_by_one(spec, left, engines, brake)


def _is_missing(spec: FlowSpec, unit: int) -> bool:
    return spec.heal or not spec.is_done(unit)


def _run_one_by_one(
    spec: FlowSpec, unit_numbers: Sequence[int], engines: Engines, brake: Brake
) -> Iterator[UnitDone]:
    spec = replace(spec, task=spec.task.without_neighbours(), trial_rows=0)
    worker = _ReplaceableWorker(spec, engines, brake)
    prepare = ray.remote(num_cpus=1)(prepare_unit)
    try:
        for unit in unit_numbers:
            if brake.is_pulled():
                return
            prepared = ray.get(prepare.remote(pa.table({"unit": [unit]}), spec, brake))
            rows = worker.answer(prepared)
            if rows.num_rows:
                with storage.patience(storage.UNIT_PATIENCE_S):
                    done = commit_rows(rows, spec)
                yield done
    except ray.exceptions.RayError as error:
        raise (brake.first_failure() or error) from error
    finally:
        worker.close()


@dataclass
class _ReplaceableWorker:
    """One engine worker at a time, replaced when it dies."""

    spec: FlowSpec
    engines: Engines
    brake: Brake
    _actor: Any = field(default=None, init=False)

    def answer(self, prepared: pa.Table) -> pa.Table:
        """PREPARED_SCHEMA in, `generated_schema` out, by as many workers as it takes."""
        if not prepared.num_rows:
            return generated_schema(self.spec.task.contract).empty_table()
        for _ in range(_DEATHS_ALONE if prepared.num_rows == 1 else 1):
            try:
                found: pa.Table = ray.get(self._start().__call__.remote(prepared))
                return found
            except _WORKER_LOST:
                self.close()
        if prepared.num_rows == 1:
            return fail_rows(prepared, _WORKER_DIED, self.spec)
        half = prepared.num_rows // 2
        parts = (prepared.slice(0, half), prepared.slice(half))
        return pa.concat_tables(self.answer(part.combine_chunks()) for part in parts)

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
            free_places(self.spec)
        self._actor = None

    def _start(self) -> Any:
        if self._actor is None:
            options = engine_resources(self.spec, self.engines)
            options |= place_engine(self.spec, self.engines)
            actor = ray.remote(max_restarts=0, **options)(EngineActor)
            self._actor = actor.remote(self.spec, self.brake)
        return self._actor
