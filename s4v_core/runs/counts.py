"""Counts of the rows of a run by status and reason, from storage alone."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from s4v_core import storage
from s4v_core.records.plan import PlanHead, list_digests
from s4v_core.records.units import UnitAccount, UnitFolder

_READERS = 32
"""Unit files that are read at the same time; each is a small GET."""


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Counts of one output folder.

    Attributes:
        rows: Planned rows; `done` of them have a result.
        missing: Units of the plan that have no file.
        outdated: Units with rows whose places hold something else since.
        foreign: Unit files that are not of this plan.
        reasons: Rows by reason, for the rows that are not ok.
        sums: Sums over all rows, by integer column of the contract.
        damaged: Accounts of inputs that are not proven complete.
        renamed: Rows whose key another row had already.
        repeated: Records that name a row again.
        skipped: Members and records of the inputs that are no rows.
        captioned: Images of the inputs that were left out because they have a caption already.
        removed: Planned rows whose places are gone.
    """

    rows: int
    units: int
    done: int
    ok: int
    rejected: int
    error: int
    missing: list[int]
    outdated: list[int]
    foreign: list[int]
    reasons: dict[str, int] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    damaged: list[dict[str, Any]] = field(default_factory=list)
    renamed: int = 0
    repeated: int = 0
    skipped: int = 0
    captioned: int = 0
    removed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def count_run(units: UnitFolder, head: PlanHead) -> RunCounts:
    """Sum the accounts of every unit's file of a run: rows by status and by reason."""
    done = units.list_done()
    planned = set(head.units)
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    foreign, outdated = sorted(done - planned), list[int]()
    for account in _read_accounts(units, done & planned):
        *earlier, newest = list_digests(head.parts, account.unit)
        if account.rows != head.unit_rows[account.unit] or account.plan not in (*earlier, newest):
            foreign.append(account.unit)
        elif account.plan != newest:
            outdated.append(account.unit)
        for name in ("rows", "ok", "rejected", "error"):
            totals[name] += getattr(account, name)
        reasons.update(account.reasons)
        sums.update(account.sums)
    return RunCounts(
        rows=head.rows,
        units=len(planned),
        done=totals["rows"],
        ok=totals["ok"],
        rejected=totals["rejected"],
        error=totals["error"],
        missing=sorted(planned - done),
        outdated=sorted(outdated),
        foreign=foreign,
        reasons=dict(reasons.most_common()),
        sums=dict(sums),
        damaged=head.damaged,
        renamed=head.renamed,
        repeated=sum(account.get("repeated", 0) for account in head.inputs),
        skipped=sum(account.get("skipped", 0) for account in head.inputs),
        captioned=sum(account.get("captioned", 0) for account in head.inputs),
        removed=head.removed,
    )


def _read_accounts(units: UnitFolder, done: set[int]) -> Iterator[UnitAccount]:
    if storage.is_local(units.output):  # a disk answers faster than threads take turns
        yield from map(units.read_account, done)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(units.read_account, done)
