"""How far a run is, read from its folder alone."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.records.contract import Contract, Words
from s4v_core.records.plan import PlanHead, require_plan_head
from s4v_core.records.units import UnitFolder
from s4v_core.runs.counts import RunCounts, count_run
from s4v_core.runs.figures import describe_figures
from s4v_core.terminal import printable

STATS_NAME = "stats.json"
_WINDOW_S = 600.0
_SILENCE_S = 900.0
"""Longer than a unit takes anywhere: nothing is running."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Counts of a run, and the figures that its last process left (empty before that)."""

    output: str
    counts: RunCounts
    figures: dict[str, Any]
    words: Words
    pace: "Pace | None" = None

    def as_text(self) -> str:
        """A few lines for people."""
        lines = [f"{printable(self.output)}: {describe_counts(self.counts, self.words)}"]
        lines += list_reasons(self.counts, self.words)
        if self.pace:
            lines.append(self.pace.as_text(self.words))
        if self.figures:
            lines.append(describe_figures(self.figures, self.words))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run that is not done moves, from the times at which its files were written.

    Attributes:
        quiet_s: Seconds since the newest unit.
        rows_per_s: Rate over the last _WINDOW_S seconds in which units came.
        left: Rows without a result.
    """

    quiet_s: float
    rows_per_s: float
    left: int

    def as_text(self, words: Words) -> str:
        if self.quiet_s > _SILENCE_S:
            quiet = describe_duration(self.quiet_s)
            return f"no unit came for {quiet}: stopped, or waiting for nodes"
        to_go = describe_duration(self.left / self.rows_per_s) if self.rows_per_s else "unknown"
        return (
            f"{self.rows_per_s:.3g} {words.rows}/s lately, {to_go} to go; "
            f"the last unit came {describe_duration(self.quiet_s)} ago"
        )


def read_status(units: UnitFolder) -> RunStatus:
    """The status of a run.

    Raises:
        InputError: The folder holds none.
    """
    head = require_plan_head(units.output)
    counts = count_run(units, head)
    pace = _measure_pace(units, head) if counts.missing else None
    return RunStatus(units.output, counts, read_figures(units.output), units.contract.words, pace)


def read_figures(output: str) -> dict[str, Any]:
    """The figures that the last process of a run left; empty before that, or if a version with
    other figures left them."""
    try:
        figures: dict[str, Any] = json.loads(storage.read(storage.join(output, STATS_NAME)))
    except FileNotFoundError:
        return {}
    return figures if "rows_per_s" in figures else {}


ContractOf = Callable[[Mapping[str, Any]], Contract]
"""Makes the contract of a kind of run from the settings of its plan."""


def open_units(output: str, kinds: Mapping[str, ContractOf]) -> UnitFolder:
    """The unit files of a run, under the contract of the kind that its plan names.

    Args:
        kinds: The kinds that the caller knows, by the name of their folder. Any other kind gets a
            contract with the common columns alone.

    Raises:
        InputError: The folder holds no run.
    """
    head = require_plan_head(output)
    if head.kind in kinds:
        return UnitFolder(output, kinds[head.kind](head.settings))
    return UnitFolder(output, Contract.of_unknown_kind(head.kind, head.key))


def _measure_pace(units: UnitFolder, head: PlanHead) -> Pace | None:
    times = {u: at for u, at in units.list_commit_times().items() if u in head.units}
    if not times:
        return None
    newest = max(times.values())
    recent = {unit: at for unit, at in times.items() if at > newest - _WINDOW_S}
    oldest = min(recent.values())
    rows = sum(head.unit_rows[unit] for unit, at in recent.items() if at > oldest)
    rate = rows / (newest - oldest) if newest > oldest else 0.0
    left = head.rows - sum(head.unit_rows[unit] for unit in times)
    return Pace(max(time.time() - newest, 0.0), rate, left)


def describe_duration(seconds: float) -> str:
    """For people: 90 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_counts(counts: RunCounts, words: Words) -> str:
    share = 100 * counts.done / max(counts.rows, 1)
    return (
        f"{counts.done} of {counts.rows} {words.rows} ({share:.1f} %): {counts.ok} ok, "
        f"{counts.rejected} rejected, {counts.error} errors"
    )


def list_reasons(counts: RunCounts, words: Words) -> list[str]:
    """Lines about rows without a good answer, and about what is wrong with the run itself."""
    lines = [f"  {number:>8} {printable(reason)}" for reason, number in counts.reasons.items()]
    one = words.rows.removesuffix("s")
    asides = {
        f"{one} ids were taken already and got a number": counts.renamed,
        f"records name an {one} again; it has one row": counts.repeated,
        f"members, files or records are no {words.rows}": counts.skipped,
        f"{words.rows} have a caption already and were left alone": counts.captioned,
        f"planned {words.rows} are no longer in the input": counts.removed,
    }
    lines += [f"  {number:>8} {what}" for what, number in asides.items() if number]
    lines += [f"  {note}" for note in counts.notes]
    if counts.missing:
        lines.append(f"  {len(counts.missing)} units are missing; the same command again resumes")
    if counts.outdated:
        lines.append(
            f"  {len(counts.outdated)} units hold {words.rows} that were replaced since; "
            "the same command again renews them"
        )
    if counts.foreign:
        lines.append(f"  {len(counts.foreign)} unit files are not of this plan: {counts.foreign}")
    for account in counts.damaged:
        kinds = ", ".join(_describe_damage(**damage) for damage in account["damages"])
        lines.append(
            f"  damaged shard {printable(account['uri'])}: {kinds}; "
            f"{account['images']} images were found"
        )
    return lines


def _describe_damage(kind: str, offset: int) -> str:
    return f"{kind} at byte {offset}" if offset else kind
