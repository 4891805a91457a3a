"""How a run ended: for people, for scripts (exit code), and for stats.json."""

from dataclasses import dataclass
from typing import Any

from s4v_core.records.contract import Words
from s4v_core.runs.counts import RunCounts
from s4v_core.runs.figures import RunFigures, describe_figures
from s4v_core.runs.status import describe_counts, list_reasons
from s4v_core.terminal import printable

DONE, FAILED, BAD_INPUT, INCOMPLETE_INPUT, NO_ANSWERS, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes: everything asked for is durable; units are missing; nothing was done; an input is
damaged or no longer the planned one; every row is there and not one is ok; stopped by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        figures: Figures of this process.
        found_done: Rows that were done before it.
        notes: Sentences that the user must read.
        words: How the kind of run names its rows.
        planned: The forecast that was made for this run, if one was.
        has_run: Whether units had to be run; False if everything was done before.
        stopped: Why the run ended before every row was there, if a limit of its own ended it.
        files: (label, place) of what the user will want to open.
    """

    output: str
    counts: RunCounts
    figures: RunFigures
    found_done: int
    is_interrupted: bool
    notes: tuple[str, ...]
    words: Words
    planned: dict[str, Any] | None = None
    has_run: bool = False
    stopped: str | None = None
    files: tuple[tuple[str, str], ...] = ()

    @property
    def exit_code(self) -> int:
        if self.is_interrupted and (self.counts.missing or self.counts.outdated):
            return INTERRUPTED
        if self.counts.missing or self.counts.outdated or self.counts.foreign:
            return FAILED
        if self._has_no_answers:
            return NO_ANSWERS
        return INCOMPLETE_INPUT if self.notes or self.counts.damaged else DONE

    def as_text(self) -> str:
        """A summary for people: counts, reasons, notes, figures and places."""
        made = self.figures.made
        lines = [
            f"{printable(self.output)}: {describe_counts(self.counts, self.words)}",
            *list_reasons(self.counts, self.words),
            *map(printable, self.notes),
            *([printable(self.stopped)] if self.stopped else []),
        ]
        if self._has_no_answers:
            lines.append(
                f"nothing was {self.words.made}: no {self._row} of {self.counts.rows} is ok"
            )
        if self.found_done:
            lines.append(
                f"{self.found_done} {self.words.rows} were done before this run, "
                f"{made} done or redone by it"
            )
        if made or self.figures.wasted:
            lines.append(describe_figures(self.figures.as_dict(), self.words))
        if self.planned and made and not self.found_done:
            lines.append(self._compare_with_forecast(self.planned))
        width = max((len(label) for label, _ in self.files), default=0) + 2
        lines += [f"{label + ':':<{width}}{printable(place)}" for label, place in self.files]
        return "\n".join(lines)

    @property
    def _has_no_answers(self) -> bool:
        counts = self.counts
        is_whole = not counts.missing and not counts.foreign
        return is_whole and counts.rows > 0 and counts.ok == 0

    @property
    def _row(self) -> str:
        return self.words.rows.removesuffix("s")

    def _compare_with_forecast(self, planned: dict[str, Any]) -> str:
        expected_s = planned["total_s"] - planned["index_s"]
        wall_s = self.figures.wall_s
        return (
            f"planned {expected_s:.0f} s for {planned['images']} {self.words.rows}, "
            f"took {wall_s:.0f} s ({wall_s / expected_s - 1:+.1%})"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as stats.json holds them."""
        counts = self.counts.as_dict()
        sums = counts.pop("sums")
        return {
            **{k: v for k, v in counts.items() if k not in ("missing", "outdated", "foreign")},
            **sums,
            "missing_units": len(self.counts.missing),
            "found_done": self.found_done,
            **self.figures.as_dict(),
        }
