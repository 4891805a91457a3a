"""How a pass ended: for people, for scripts (exit code), and for stats.json."""

from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.captioning.report import REPORT_NAME
from s4v_core.records import units
from s4v_core.runs.counts import RunCounts
from s4v_core.runs.figures import RunFigures, figures_text
from s4v_core.runs.status import counts_text, reason_lines

DONE, FAILED, BAD_INPUT, INCOMPLETE_INPUT, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all asked for is durable; units are missing; nothing was done; a shard is damaged or
the input is no longer the planned one; stopped by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended.

    Attributes:
        figures: Of this run.
        found_done: Images that had their rows before it.
        notes: Sentences that the user must read.
        planned: The forecast that was made for this run, if one was.
    """

    output: str
    counts: RunCounts
    figures: RunFigures
    found_done: int
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
        captioned, wasted = self.figures.captioned, self.figures.wasted
        lines = [
            f"{self.output}: {counts_text(self.counts)}",
            *reason_lines(self.counts),
            *self.notes,
        ]
        if self.found_done:
            lines.append(
                f"{self.found_done} images were done before this run, "
                f"{captioned} done or redone by it"
            )
        if captioned:
            lines.append(figures_text(self.as_dict()))
        if self.planned and captioned and not self.found_done:
            lines.append(self._against_plan(self.planned))
        if wasted:
            lines.append(f"{wasted} captions were made twice: another run was at work")
        lines.append(f"captions: {units.captions_folder(self.output)}/*.parquet")
        lines.append(f"report:   {storage.join(self.output, REPORT_NAME)}")
        return "\n".join(lines)

    def _against_plan(self, planned: dict[str, Any]) -> str:
        expected_s = planned["total_s"] - planned["index_s"]
        wall_s = self.figures.wall_s
        return (
            f"planned {expected_s:.0f} s for {planned['images']} images, took {wall_s:.0f} s "
            f"({wall_s / expected_s - 1:+.1%})"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures of stats.json."""
        return {
            **{k: v for k, v in self.counts.as_dict().items() if k not in ("missing", "foreign")},
            "missing_units": len(self.counts.missing),
            "found_done": self.found_done,
            **self.figures.as_dict(),
        }
