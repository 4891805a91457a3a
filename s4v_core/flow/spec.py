"""One run of the flow as values: what its workers get, and what comes out."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.settings import EngineSpec
from s4v_core.flow.task import Task
from s4v_core.records.plan import PlanPart, list_digests
from s4v_core.records.planned_rows import find_outdated_keys, read_planned_unit
from s4v_core.records.units import UnitFolder


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """Small and picklable; it travels to every worker.

    Attributes:
        output: Folder of the run, which holds the plan and the unit files.
        parts: The files of the plan that the run goes by.
        heal: Take the units that exist, do their failed rows again, and replace their files.
        trial_rows: Rows of this run, whose first requests are a trial of the engine; 0 if it was
            tried before.
    """

    output: str
    parts: tuple[PlanPart, ...]
    run_id: str
    engine: EngineSpec
    task: Task[Any]
    heal: bool = False
    trial_rows: int = 0

    @property
    def units_in_flight(self) -> int:
        """Units that an engine works on at the same time."""
        return self.engine.settings.units_in_flight or UNITS_IN_FLIGHT

    @property
    def units(self) -> UnitFolder:
        return UnitFolder(self.output, self.task.contract)

    def read_planned(self, unit: int) -> pa.Table:
        """The planned rows of a unit (`plan_schema`)."""
        return read_planned_unit(self.output, unit, self.parts)

    def find_digest(self, unit: int) -> str:
        """The digest that the file of a unit carries when it is up to date."""
        return list_digests(self.parts, unit)[-1]

    def is_done(self, unit: int) -> bool:
        """Whether the unit's file is there and up to date."""
        return self.find_outdated_keys(unit) == set()

    def find_outdated_keys(self, unit: int) -> set[str] | None:
        """Keys of the rows of a unit's file whose places hold something else now; None if there is
        no file."""
        return find_outdated_keys(self.units, self.parts, unit)


@dataclass(frozen=True, slots=True)
class Engines:
    """How many engine workers, and on which hardware.

    Attributes:
        accelerator: Ray's accelerator type, for example A100-80G; None takes any GPU.
    """

    count: int
    accelerator: str | None = None


UNITS_IN_FLIGHT = 3
"""Units of the usual size that an engine works on at the same time."""

COMMIT_CPUS = 0.25
"""CPUs reserved for a commit task, which mostly waits for the store; a task that reads and decodes
reserves a whole one."""

STAGES = {
    "read": "read_s",
    "decode": "decode_s",
    "engine": "generate_s",
    "idle": "idle_s",
    "write": "commit_s",
}
"""Stages of a run as people read them, and the field of UnitDone that holds each one's seconds."""


@dataclass(frozen=True, slots=True)
class UnitDone:
    """One durable unit on its way out of the flow.

    Times are seconds of work, except idle_s and queued_s.

    Attributes:
        rows: Rows of the unit's file; `generated` of them went through the flow now.
        generated_ok: Generated rows that are ok.
        reasons: (reason, count) of the other generated rows.
        attempts: Answers that were generated for these rows, rejected ones included.
        engine_starts: Engines started since the last unit, to replace dead ones.
        sums: Sums over the file's rows, by integer column of the contract.
        wrote: False if another run had committed the unit.
        idle_s: Time for which the unit's engine had nothing to do before the unit came.
        queued_s: Time between the unit's last answer and the start of its commit.
        load: Load of the unit's engine since the unit that it gave out before; None if engines of
            this kind do not tell.
    """

    unit: int
    rows: int
    generated: int
    generated_ok: int
    reasons: tuple[tuple[str, int], ...]
    attempts: int
    engine_starts: int
    ok: int
    rejected: int
    error: int
    wrote: bool
    read_s: float
    decode_s: float
    generate_s: float
    idle_s: float
    queued_s: float
    commit_s: float
    sums: dict[str, int] = field(default_factory=dict)
    load: EngineLoad | None = None
