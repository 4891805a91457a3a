"""How far a run is, read from its folder alone."""

import json
import time
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.records import plan, units
from s4v_core.runs.counts import RunCounts, count_run
from s4v_core.runs.figures import figures_text

STATS_NAME = "stats.json"
WINDOW_S = 600.0
SILENCE_S = 900.0
"""Longer than a unit takes anywhere: nobody is at work."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Counts of a run, and the figures that its last process left (empty before that)."""

    output: str
    counts: RunCounts
    figures: dict[str, Any]
    pace: "Pace | None" = None

    def as_text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.output}: {counts_text(self.counts)}"]
        lines += reason_lines(self.counts)
        if self.pace:
            lines.append(self.pace.as_text())
        if self.figures:
            lines.append(figures_text(self.figures))
        return "\n".join(lines)


def read_status(output: str) -> RunStatus:
    """The status of the run in `output`.

    Raises:
        InputError: There is none.
    """
    head = plan.read_plan_head(output)
    if head is None:
        raise InputError(output, "holds no caption run (there is no plan.parquet)")
    try:
        figures = json.loads(storage.read(storage.join(output, STATS_NAME)))
    except FileNotFoundError:
        figures = {}
    counts = count_run(output, head)
    return RunStatus(output, counts, figures, _pace(output, head) if counts.missing else None)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run that is not done moves, from when its files were written.

    Attributes:
        quiet_s: Since the newest unit.
        images_per_s: Over the last WINDOW_S seconds in which units came.
        left: Images without a row.
    """

    quiet_s: float
    images_per_s: float
    left: int

    def as_text(self) -> str:
        if self.quiet_s > SILENCE_S:
            return f"no unit came for {duration(self.quiet_s)}: stopped, or waiting for nodes"
        to_go = duration(self.left / self.images_per_s) if self.images_per_s else "unknown"
        return (
            f"{self.images_per_s:.3g} images/s lately, {to_go} to go; "
            f"the last unit came {duration(self.quiet_s)} ago"
        )


def _pace(output: str, head: plan.PlanHead) -> Pace | None:
    times = {u: at for u, at in units.commit_times(output).items() if u < len(head.unit_rows)}
    if not times:
        return None
    newest = max(times.values())
    recent = {unit: at for unit, at in times.items() if at > newest - WINDOW_S}
    oldest = min(recent.values())
    rows = sum(head.unit_rows[unit] for unit, at in recent.items() if at > oldest)
    rate = rows / (newest - oldest) if newest > oldest else 0.0
    left = head.images - sum(head.unit_rows[unit] for unit in times)
    return Pace(max(time.time() - newest, 0.0), rate, left)


def duration(seconds: float) -> str:
    """For people: 90 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def first_captions(output: str, count: int) -> list[tuple[str, str]]:
    """Image id and caption (or reason) of the first rows that are done."""
    shown: list[tuple[str, str]] = []
    for unit in sorted(units.done_units(output)):
        rows = units.read_unit(output, unit).slice(0, count - len(shown)).to_pylist()
        shown += [(row["image_id"], said(row)) for row in rows]
        if len(shown) == count:
            break
    return shown


def said(row: dict[str, Any]) -> str:
    """A row's caption, or why there is none."""
    return str(row["caption"]) if row["status"] == "ok" else f"{row['status']}: {row['reason']}"


def counts_text(counts: RunCounts) -> str:
    share = 100 * counts.done / counts.images
    return (
        f"{counts.done} of {counts.images} images ({share:.1f} %): {counts.ok} ok, "
        f"{counts.rejected} rejected, {counts.error} errors"
    )


def reason_lines(counts: RunCounts) -> list[str]:
    """Reasons of rows without a good caption, and what is wrong with the run itself."""
    lines = [f"  {number:>8} {reason}" for reason, number in counts.reasons.items()]
    asides = {
        "image ids were taken already and got a number": counts.renamed,
        "records name an image again; it has one row": counts.repeated,
        "members or records are no images": counts.skipped,
    }
    lines += [f"  {number:>8} {what}" for what, number in asides.items() if number]
    if counts.missing:
        lines.append(f"  {len(counts.missing)} units are missing; the same command again resumes")
    if counts.foreign:
        lines.append(
            f"  {len(counts.foreign)} files in captions/ are not of this plan: {counts.foreign}"
        )
    for shard in counts.damaged:
        kinds = ", ".join(f"{d['kind']} at byte {d['offset']}" for d in shard["damages"])
        lines.append(
            f"  damaged shard {shard['uri']}: {kinds}; {shard['images']} images were found"
        )
    return lines
