"""What is done of a run and how it ended, from storage alone."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from s4v_core import storage
from s4v_core.records import plan, units

READERS = 32
"""Unit files that are read at the same time; each is a small GET."""


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Of one output folder.

    Attributes:
        missing: Units of the plan that have no file.
        foreign: Files of captions that are not of this plan.
        reasons: Rows by reason, of those that are not ok.
        damaged: Accounts of shards that are not proven complete.
        renamed: Images whose id another one had already.
        repeated: Records that name an image again.
        skipped: Members and records that are no images.
    """

    images: int
    units: int
    done: int
    ok: int
    rejected: int
    error: int
    output_tokens: int
    attempts: int
    missing: list[int]
    foreign: list[int]
    reasons: dict[str, int] = field(default_factory=dict)
    damaged: list[dict[str, Any]] = field(default_factory=list)
    renamed: int = 0
    repeated: int = 0
    skipped: int = 0

    @property
    def complete(self) -> bool:
        """Whether every image that could be read has its row, and every shard was whole."""
        return not (self.missing or self.foreign or self.damaged)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def count_run(output: str, head: plan.PlanHead) -> RunCounts:
    """The accounts of every unit's file of a run: rows by status and by reason."""
    done = units.done_units(output)
    planned = set(range(len(head.unit_rows)))
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    foreign = sorted(done - planned)
    for account in _accounts(output, done & planned):
        if (account.plan, account.rows) != (head.digest, head.unit_rows[account.unit]):
            foreign.append(account.unit)
        for name in ("rows", "ok", "rejected", "error", "output_tokens", "attempts"):
            totals[name] += getattr(account, name)
        reasons.update(account.reasons)
    return RunCounts(
        images=head.images,
        units=len(planned),
        done=totals["rows"],
        ok=totals["ok"],
        rejected=totals["rejected"],
        error=totals["error"],
        output_tokens=totals["output_tokens"],
        attempts=totals["attempts"],
        missing=sorted(planned - done),
        foreign=foreign,
        reasons=dict(reasons.most_common()),
        damaged=head.damaged,
        renamed=head.renamed,
        repeated=sum(shard["repeated"] for shard in head.shards),
        skipped=sum(shard["skipped"] for shard in head.shards),
    )


def _accounts(output: str, done: set[int]) -> Iterator[units.UnitAccount]:
    read = partial(units.read_account, output)
    if storage.is_local(output):  # a disk answers faster than threads take turns
        yield from map(read, done)
        return
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, done)
