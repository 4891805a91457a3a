"""Units to the end, also those whose worker died under them: rounds of the flow, then by hand.

An image can take down the whole process around an engine (memory, a crash of native code). Ray
drops its unit after a few tries; here the unit is tried again in parts, by halves, until the image
that no worker survives is alone. It becomes a row; its neighbours get their captions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from s4v_core import storage
from s4v_core.flow.actor import GENERATED_SCHEMA, CaptionerActor, failed_rows
from s4v_core.flow.brake import Brake
from s4v_core.flow.pipeline import commit, engine_resources, run_flow
from s4v_core.flow.preparation import prepare_unit
from s4v_core.flow.spec import Engines, PassSpec, UnitDone
from s4v_core.records import units

WORKER_DIED = "worker_died"
"""Reason of an image that no worker survives."""

DEATHS_ALONE = 2
"""Of workers that had nothing but one image, before it is to blame: a node may die of itself."""

WORKER_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,  # the worker was done, and its node died with the answer
)

FEW_UNITS = 8
"""So many units left over are taken by hand; more of them go through the flow again, as long as
that brings any of them to their end."""


def run_units(
    spec: PassSpec, unit_numbers: Sequence[int], engines: Engines, brake: Brake
) -> Iterator[UnitDone]:
    """Caption the units; each comes out when its file is durable.

    Raises:
        S4VError: A store or an engine that fails as a whole. What is done stays done.
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
        before, left = len(left), [u for u in left if u not in finished and _missing(spec, u)]
        if len(left) <= FEW_UNITS or len(left) == before:
            break
    if left:
        yield from _by_hand(spec, left, engines, brake)


def _missing(spec: PassSpec, unit: int) -> bool:
    return spec.heal or not storage.exists(units.unit_uri(spec.output, unit))


def _by_hand(
    spec: PassSpec, unit_numbers: Sequence[int], engines: Engines, brake: Brake
) -> Iterator[UnitDone]:
    worker = _Worker(spec, engines, brake)
    prepare = ray.remote(num_cpus=1)(prepare_unit)
    try:
        for unit in unit_numbers:
            if brake.is_pulled():
                return
            prepared = ray.get(prepare.remote(pa.table({"unit": [unit]}), spec, brake))
            rows = worker.captioned(prepared)
            if rows.num_rows:
                with storage.patience(storage.UNIT_PATIENCE_S):
                    done = commit(rows, spec)
                yield done
    except ray.exceptions.RayError as error:
        raise (brake.first_failure() or error) from error
    finally:
        worker.close()


@dataclass
class _Worker:
    """One engine actor at a time, replaced when it dies."""

    spec: PassSpec
    engines: Engines
    brake: Brake
    _actor: Any = field(default=None, init=False)

    def captioned(self, prepared: pa.Table) -> pa.Table:
        """PREPARED_SCHEMA in, GENERATED_SCHEMA out, by as many workers as it takes."""
        if not prepared.num_rows:
            return GENERATED_SCHEMA.empty_table()
        for _ in range(DEATHS_ALONE if prepared.num_rows == 1 else 1):
            try:
                found: pa.Table = ray.get(self._running().__call__.remote(prepared))
                return found
            except WORKER_LOST:
                self.close()
        if prepared.num_rows == 1:
            return failed_rows(prepared, WORKER_DIED, self.spec)
        half = prepared.num_rows // 2
        parts = (prepared.slice(0, half), prepared.slice(half))
        return pa.concat_tables(self.captioned(part.combine_chunks()) for part in parts)

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = None

    def _running(self) -> Any:
        if self._actor is None:
            resources = engine_resources(self.spec, self.engines)
            actor = ray.remote(max_restarts=0, **resources)(CaptionerActor)
            self._actor = actor.remote(self.spec, self.brake)
        return self._actor
