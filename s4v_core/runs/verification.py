"""The final proof: every row of a run against its plan, whichever process made it."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from s4v_core.errors import S4VError
from s4v_core.records.contract import STATUSES, Words
from s4v_core.records.plan import PlanHead, require_plan_head
from s4v_core.records.planned_rows import read_planned_keys
from s4v_core.records.units import UnitFolder
from s4v_core.terminal import printable

_READERS = 16
_SHOWN_PROBLEMS = 20

RowChecks = Callable[[pa.Table], dict[str, int]]
"""Further checks of one kind of run: a unit's rows in; how many rows have which problem out."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of reading every row.

    Attributes:
        planned: Rows of the plan.
        found: Rows in the unit files.
        problems: One sentence each; if there is none, every planned row has exactly one sound
            result.
    """

    planned: int
    found: int
    problems: tuple[str, ...]
    words: Words

    @property
    def is_sound(self) -> bool:
        return not self.problems

    def as_text(self) -> str:
        one = self.words.rows.removesuffix("s")
        if self.is_sound:
            return f"verified: {self.found} rows, each planned {one} exactly once"
        shown = [f"  {printable(problem)}" for problem in self.problems[:_SHOWN_PROBLEMS]]
        more = len(self.problems) - len(shown)
        rest = [f"  and {more} more"] if more > 0 else []
        found = f"{self.found} rows of {self.planned} {self.words.rows}"
        return "\n".join([f"not verified: {found}, {len(self.problems)} problems", *shown, *rest])


def verify_run(units: UnitFolder, check_rows: RowChecks | None = None) -> Verification:
    """Read every unit of a run.

    Raises:
        InputError: The folder holds no run.
        StorageError: The store does not answer.
    """
    head = require_plan_head(units.output)
    planned, done = set(head.units), units.list_done()
    problems = [f"unit {unit}: no file" for unit in sorted(planned - done)]
    problems += [f"unit {unit}: not in the plan" for unit in sorted(done - planned)]
    found, keys = 0, Counter[str]()
    with ThreadPoolExecutor(_READERS) as pool:
        there = (
            (unit, wanted)
            for unit, wanted in enumerate(read_planned_keys(units.output))
            if unit in done
        )
        checked = pool.map(lambda one: _check_unit(units, one[0], one[1], head, check_rows), there)
        for unit_keys, unit_problems in checked:
            found += len(unit_keys)
            keys.update(unit_keys)
            problems += unit_problems
    problems += [f"{key}: {count} rows" for key, count in keys.items() if count > 1]
    return Verification(head.rows, found, tuple(problems), units.contract.words)


def _check_unit(
    units: UnitFolder, unit: int, wanted: list[str], head: PlanHead, check_rows: RowChecks | None
) -> tuple[list[str], list[str]]:
    """Keys in a unit's file, and what is wrong with it."""
    try:
        account = units.read_account(unit)
        table = units.read(unit) if check_rows else units.read_common(unit)
    except S4VError as error:
        return [], [f"unit {unit}: {error}"]
    keys = [str(key) for key in table[units.contract.key].to_pylist()]
    problems = []
    if account.plan != head.find_digest(unit):
        problems.append("made for another plan")
    if keys != wanted:
        missing, strange = len(set(wanted) - set(keys)), len(set(keys) - set(wanted))
        rows = units.contract.words.rows
        problems.append(f"{missing} planned {rows} missing, {strange} strange ones")
    if any(count != getattr(account, status) for status, count in _count_statuses(table).items()):
        problems.append("rows and account differ")
    unsound = {"rows whose reason does not fit their status": _count_unexplained(table)}
    unsound |= check_rows(table) if check_rows else {}
    problems += [f"{count} {what}" for what, count in unsound.items() if count]
    return keys, [f"unit {unit}: {problem}" for problem in problems]


def _count_statuses(table: pa.Table) -> dict[str, int]:
    found = Counter(str(status) for status in table["status"].to_pylist())
    return {status: found[status] for status in STATUSES}


def _count_unexplained(table: pa.Table) -> int:
    pairs = zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True)
    return sum((status == "ok") != (reason is None) for status, reason in pairs)
