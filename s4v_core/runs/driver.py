"""The Ray side of a pass: indexing the input, and driving the flow with a bar and a brake.

Ray is imported where it is needed: a run that is finished answers without it.
"""

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from s4v_core.captioning.checks import CheckedJob
from s4v_core.flow.spec import Engines, PassSpec, UnitDone
from s4v_core.inputs.source_names import name_sources
from s4v_core.interrupts import drain_on_interrupt
from s4v_core.records.plan import PlanHead
from s4v_core.runs.display import ImageBar, PassNotes
from s4v_core.runs.figures import RunFigures, Times

DRAIN_LIMIT_S = 50.0
"""After Ctrl-C; units that are not through by then stay undone, and nothing is lost."""


class PassFlow:
    """The flow of one pass, and what came of it so far.

    Attributes:
        interrupted: Whether Ctrl-C stopped the intake.
    """

    def __init__(self, checked: CheckedJob, head: PlanHead, run_id: str, output: str) -> None:
        self.checked, self.head = checked, head
        job = checked.job
        self.spec = PassSpec(
            output=output,
            plan_digest=head.digest,
            run_id=run_id,
            engine=checked.engine,
            model=job.model,
            model_revision=checked.facts.revision,
            samplings=job.samplings,
            gate=job.gate,
            decode=job.decode,
            framing=checked.facts.framing,
            prompts=checked.prompts,
            captions_per_image=job.captions_per_image,
            dedupe=job.dedupe,
            heal=job.retry_errors,
        )
        self.interrupted = False
        self._times, self._notes = Times(), PassNotes()
        self._captioned = self._captioned_ok = self._wasted = 0
        self._attempted = self._engine_starts = 0
        self._started, self._busy_s = time.monotonic(), 0.0

    @property
    def bound_by(self) -> str:
        return self._times.bound_by(self._busy_s, self.checked.job.engines)

    def figures(self) -> RunFigures:
        """Up to now."""
        return RunFigures(
            captioned=self._captioned,
            captioned_ok=self._captioned_ok,
            attempted=self._attempted,
            wasted=self._wasted,
            engine_starts=self._engine_starts,
            wall_s=time.monotonic() - self._started,
            ms_per_image=self._times.ms_per_image(),
            bound_by=self.bound_by,
        )

    def run(self, todo: list[int], label: str, found_done: int = 0) -> Iterator[UnitDone]:
        """Run the units; each is given out when it is durable."""
        from s4v_core.flow.brake import Brake
        from s4v_core.flow.isolation import run_units
        from s4v_core.flow.prometheus import PassMetrics

        engines = Engines(self.checked.job.engines, self.checked.job.accelerator)
        _connect(self.checked)
        brake = Brake()
        first: float | None = None
        rows = sum(self.head.unit_rows[unit] for unit in todo)
        with (
            PassMetrics(
                self.spec.run_id, self.head.images, found_done, engines.count, brake.held_s
            ) as metrics,
            drain_on_interrupt(brake.pull, limit_s=DRAIN_LIMIT_S) as drained,
            ImageBar(label, found_done + rows, found_done) as bar,
        ):
            for done in run_units(self.spec, todo, engines, brake):
                first = first or time.monotonic()
                self._busy_s = time.monotonic() - first
                self._times.add(done)
                self._count(done)
                self._notes.add(done)
                metrics.add(done, self.bound_by)
                bar.note(self._notes.text(self.bound_by))
                bar.advance(done.rows)
                yield done
        self.interrupted = bool(drained)

    def _count(self, done: UnitDone) -> None:
        self._captioned += done.generated if done.wrote else 0
        self._captioned_ok += done.generated_ok if done.wrote else 0
        self._wasted += 0 if done.wrote else done.generated
        self._attempted += done.attempts
        self._engine_starts += done.engine_starts


def index_input(checked: CheckedJob) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """Rows (INDEX_SCHEMA) and account of every shard, in order."""
    from s4v_core.flow.shard_indexing import index_shards

    _connect(checked)
    with ImageBar(f"indexing {len(checked.shards)} shards", None) as bar:
        tables, accounts = index_shards(checked.shards, bar.advance)
    job = checked.job
    return [name_sources(rows, job.sources, job.source_column) for rows in tables], accounts


def _connect(checked: CheckedJob) -> None:
    """With what the whole pass needs from the start: a local cluster does not grow later."""
    from s4v_core.flow.connection import connect
    from s4v_core.flow.pipeline import needed_cpus

    engines = checked.job.engines
    gpus = engines if checked.engine.device == "gpu" else 0
    connect(needed_cpus(checked.engine.settings, engines), gpus)
