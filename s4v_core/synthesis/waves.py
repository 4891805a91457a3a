"""A stage as a row of durable runs, one after the other: OUTPUT/<stage>/wave-01, wave-02, ...

What a wave does may depend on what the waves before it found: their best outputs become examples,
and what is still missing is asked for. A wave's rows are fixed by its plan once it has begun, so
that a resumed stage goes on with exactly those.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s4v_core import storage
from s4v_core.engines.settings import EngineSpec
from s4v_core.flow.spec import Engines
from s4v_core.flow.task import Row, Task
from s4v_core.records.contract import Contract
from s4v_core.records.plan import read_plan_head
from s4v_core.records.planned_rows import read_planned_unit
from s4v_core.records.units import UnitFolder
from s4v_core.runs.outcome import NO_ANSWERS, Outcome
from s4v_core.runs.table_run import run_rows

PlannedRow = Mapping[str, Any]

UNIT_SIZE = 64
"""Rows of a unit: an image takes a second and more, and a kill costs the units in flight."""


@dataclass(slots=True)
class StageRun:
    """How a stage went.

    Attributes:
        outcomes: One per wave that was run or looked at now.
        exit_code: 0, or that of the wave that did not end well.
    """

    output: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        codes = [one.exit_code for one in self.outcomes if one.exit_code != NO_ANSWERS]
        return next((code for code in codes if code), 0)

    def as_text(self) -> str:
        return "\n".join(one.as_text() for one in self.outcomes if one.has_run)


def wave_folder(output: str, wave: int) -> str:
    return storage.join(output, f"wave-{wave:02d}")


def run_waves(
    output: str,
    plan_wave: Callable[[int], Sequence[PlannedRow]],
    make_task: Callable[[int], Task[Any]],
    engine: EngineSpec,
    settings: Mapping[str, Any],
    *,
    most_waves: int,
    engines: Engines | None = None,
    unit_size: int = UNIT_SIZE,
) -> StageRun:
    """Run wave after wave until one has nothing to do or does not end well.

    Args:
        plan_wave: The rows of a wave, from what the waves before it left; none ends the stage.
        make_task: The task of a wave.
    """
    stage = StageRun(output)
    for wave in range(1, most_waves + 1):
        folder = wave_folder(output, wave)
        task = make_task(wave)
        rows = _read_planned(folder) or list(plan_wave(wave))
        if not rows:
            break
        stage.outcomes.append(
            run_rows(
                task,
                rows,
                folder,
                engine,
                settings=settings,
                engines=engines,
                unit_size=unit_size,
            )
        )
        if stage.exit_code:
            break
    return stage


def read_wave_rows(output: str, contract: Contract, before: int | None = None) -> Iterator[Row]:
    """The result rows of a stage, in the order in which they were planned.

    Args:
        before: Only those of earlier waves.
    """
    wave = 1
    while before is None or wave < before:
        folder = wave_folder(output, wave)
        if read_plan_head(folder) is None:
            return
        units = UnitFolder(folder, contract)
        for unit in sorted(units.list_done()):
            yield from units.read(unit).to_pylist()
        wave += 1


def count_reasons(output: str, contract: Contract) -> dict[str, int]:
    """Rows of a stage by reason, for those that are not ok; reads no rows."""
    reasons: Counter[str] = Counter()
    wave = 1
    while read_plan_head(folder := wave_folder(output, wave)) is not None:
        units = UnitFolder(folder, contract)
        for unit in units.list_done():
            reasons.update(units.read_account(unit).reasons)
        wave += 1
    return dict(reasons.most_common())


def list_planned_keys(output: str, contract: Contract) -> set[str]:
    """Keys of all rows that any wave has planned."""
    keys: set[str] = set()
    wave = 1
    while rows := _read_planned(wave_folder(output, wave)):
        keys |= {str(row[contract.key]) for row in rows}
        wave += 1
    return keys


def _read_planned(folder: str) -> list[PlannedRow]:
    """The rows of a wave that was begun, as they were given to it."""
    head = read_plan_head(folder)
    if head is None:
        return []
    rows = [row for unit in head.units for row in read_planned_unit(folder, unit).to_pylist()]
    return [{name: value for name, value in row.items() if name != "unit"} for row in rows]
