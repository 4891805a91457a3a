"""The final proof: every row of a run against its plan, whoever made it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from s4v_core.errors import S4VError
from s4v_core.records import plan, units

READERS = 16
SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading everything came to.

    Attributes:
        images: Of the plan.
        rows: That were found.
        problems: One sentence each; none of them: every planned image has exactly one sound row.
    """

    images: int
    rows: int
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        return not self.problems

    def as_text(self) -> str:
        if self.is_sound:
            return f"verified: {self.rows} rows, each planned image exactly once"
        shown = [f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        more = len(self.problems) - len(shown)
        rest = [f"  and {more} more"] if more > 0 else []
        found = f"{self.rows} rows of {self.images} images, {len(self.problems)} problems"
        return "\n".join([f"not verified: {found}", *shown, *rest])


def verify_run(output: str) -> Verification:
    """Read every unit of a run whole.

    Raises:
        StorageError: The store does not answer.
    """
    head = plan.read_plan_head(output)
    assert head is not None, "who asks has seen the plan"
    planned, done = set(range(len(head.unit_rows))), units.done_units(output)
    problems = [f"unit {unit}: no file" for unit in sorted(planned - done)]
    problems += [f"unit {unit}: not in the plan" for unit in sorted(done - planned)]
    rows, ids = 0, Counter[str]()
    with ThreadPoolExecutor(READERS) as pool:
        there = (
            (unit, wanted) for unit, wanted in enumerate(plan.planned_ids(output)) if unit in done
        )
        checked = pool.map(lambda one: _checked(output, one[0], one[1], head), there)
        for found, wrong in checked:
            rows += len(found)
            ids.update(found)
            problems += wrong
    problems += [f"{image_id}: {count} rows" for image_id, count in ids.items() if count > 1]
    return Verification(head.images, rows, tuple(problems))


def _checked(
    output: str, unit: int, wanted: list[str], head: plan.PlanHead
) -> tuple[list[str], list[str]]:
    """Image ids of a unit's file, and what is wrong with it."""
    try:
        account = units.read_account(output, unit)
        table = units.read_unit(output, unit)
    except S4VError as error:
        return [], [f"unit {unit}: {error}"]
    ids = [str(image_id) for image_id in table["image_id"].to_pylist()]
    problems = []
    if account.plan != head.digest:
        problems.append("made for another plan")
    if ids != wanted:
        missing, strange = len(set(wanted) - set(ids)), len(set(ids) - set(wanted))
        problems.append(f"{missing} planned images missing, {strange} strange ones")
    if _counts(table) != {"ok": account.ok, "rejected": account.rejected, "error": account.error}:
        problems.append("rows and account differ")
    problems += _unsound(table)
    return ids, [f"unit {unit}: {problem}" for problem in problems]


def _counts(table: pa.Table) -> dict[str, int]:
    found = Counter(str(status) for status in table["status"].to_pylist())
    return {"ok": 0, "rejected": 0, "error": 0} | dict(found)


def _unsound(table: pa.Table) -> list[str]:
    rows = table.select(["status", "reason", "caption", "image_sha256"]).to_pylist()
    without = sum(row["status"] == "ok" and not row["caption"] for row in rows)
    unproven = sum(row["status"] == "ok" and not row["image_sha256"] for row in rows)
    unexplained = sum((row["status"] == "ok") != (row["reason"] is None) for row in rows)
    found = {
        "ok rows without a caption": without,
        "ok rows without their image's hash": unproven,
        "rows whose reason does not fit their status": unexplained,
    }
    return [f"{count} {what}" for what, count in found.items() if count]
