"""How a pass ended: for people, for scripts (exit code), and for stats.json."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from s4v_core import storage
from s4v_core.captioning.report import REPORT_NAME
from s4v_core.captioning.statistics import RunCounts
from s4v_core.captioning.status import counts_text, pace_text, reason_lines
from s4v_core.records import units

DONE, FAILED, BAD_INPUT, INCOMPLETE_INPUT, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all asked for is durable; units are missing; nothing was done; a shard is damaged or
the input is no longer the planned one; stopped by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended.

    Attributes:
        captioned: Images whose rows this run wrote; of these `captioned_ok` have a caption.
        attempted: Captions that this run generated, rejected ones included.
        engine_starts: Engines that were started to replace dead ones.
        found_done: Images that had their rows before it.
        wasted: Images that this run generated although somebody else had just committed them.
        wall_s: Time of the flow, engine start included.
        notes: Sentences that the user must read.
        planned: The forecast that was made for this run, if one was.
    """

    output: str
    counts: RunCounts
    captioned: int
    captioned_ok: int
    attempted: int
    engine_starts: int
    found_done: int
    wasted: int
    wall_s: float
    ms_per_image: dict[str, float]
    bound_by: str
    interrupted: bool
    notes: tuple[str, ...]
    planned: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        if self.interrupted and self.counts.missing:
            return INTERRUPTED
        if self.counts.missing or self.counts.foreign:
            return FAILED
        return INCOMPLETE_INPUT if self.notes or self.counts.damaged else DONE

    def as_text(self) -> str:
        """What was asked for, what is there now, and what to know of it."""
        lines = [
            f"{self.output}: {counts_text(self.counts)}",
            *reason_lines(self.counts),
            *self.notes,
        ]
        if self.found_done:
            lines.append(
                f"{self.found_done} images were done before this run, "
                f"{self.captioned} done or redone by it"
            )
        if self.captioned:
            lines.append(pace_text(self.as_dict()))
        if self.planned and self.captioned and not self.found_done:
            lines.append(self._against_plan(self.planned))
        if self.wasted:
            lines.append(f"{self.wasted} captions were made twice: another run was at work")
        lines.append(f"captions: {units.captions_folder(self.output)}/*.parquet")
        lines.append(f"report:   {storage.join(self.output, REPORT_NAME)}")
        return "\n".join(lines)

    def _against_plan(self, planned: dict[str, Any]) -> str:
        expected_s = planned["total_s"] - planned["index_s"]
        return (
            f"planned {expected_s:.0f} s for {planned['images']} images, took {self.wall_s:.0f} s "
            f"({self.wall_s / expected_s - 1:+.1%})"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures of stats.json."""
        wall_s = self.wall_s if self.captioned else 0.0
        return {
            **{k: v for k, v in self.counts.as_dict().items() if k not in ("missing", "foreign")},
            "missing_units": len(self.counts.missing),
            "captioned_by_this_run": self.captioned,
            "found_done": self.found_done,
            "wasted": self.wasted,
            "wall_s": round(self.wall_s, 3),
            "images_per_s": _rate(self.captioned, wall_s),
            "goodput_per_s": _rate(self.captioned_ok, wall_s),
            "attempts_per_s": _rate(self.attempted, wall_s),
            "engine_restarts": self.engine_starts,
            "ms_per_image": self.ms_per_image,
            "bound_by": self.bound_by,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _rate(count: int, wall_s: float) -> float:
    return round(count / wall_s, 3) if wall_s else 0.0
