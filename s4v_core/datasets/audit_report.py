"""The result of an audit, for people and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s4v_core.datasets.audit_counts import AuditCounts
from s4v_core.datasets.audit_traps import Trap, find_traps
from s4v_core.datasets.image_search import FOUND, SearchResult
from s4v_core.terminal import printable


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        data, cleaned: The file, and the one without its faults.
        check: How closely the images were looked at; None without images.
        counts: What the records hold.
        stored: Number of images in the store.
        traps: Known traps that were met.
    """

    data: str
    cleaned: str
    check: str | None
    counts: AuditCounts
    stored: int
    traps: tuple[Trap, ...]

    @classmethod
    def build(
        cls,
        data: str,
        cleaned: str,
        check: str,
        counts: AuditCounts,
        search: SearchResult | None,
    ) -> "AuditReport":
        traps = tuple(find_traps(counts, search))
        stored = search.images if search else 0
        return cls(data, cleaned, check if search else None, counts, stored, traps)

    @property
    def left_out(self) -> int:
        return self.counts.records - self.counts.kept

    def describe(self) -> dict[str, Any]:
        """All counts, as they stand in audit.json."""
        counts = self.counts
        states = sorted(counts.source_states.items())
        return {
            "data": self.data,
            "cleaned": self.cleaned,
            "check": self.check,
            "records": counts.records,
            "kept": counts.kept,
            "left_out": dict(counts.faults.most_common()),
            "images_by_source": dict(counts.sources.most_common()),
            "states_by_source": {name: dict(found.most_common()) for name, found in states},
            "images_by_pattern": dict(counts.patterns.most_common()),
            "different_images": len(counts.images),
            "stored_images": self.stored,
            "repeated_ids": counts.repeated_ids,
            "repeated_images": counts.repeated_images,
            "oddities": dict(counts.oddities.most_common()),
            "traps": [
                {"name": t.name, "count": t.count, "sentence": t.sentence, "example": t.example}
                for t in self.traps
            ],
            "examples": dict(counts.lost),
        }

    def as_text(self) -> str:
        """Lines for people."""
        counts = self.counts
        lines = [
            f"{counts.records:,} records, {len(counts.images):,} different images; "
            f"{counts.kept:,} records kept in {self.cleaned}, {self.left_out:,} left out"
            + _join(counts.faults, " (", ")"),
        ]
        for source, count in counts.sources.most_common():
            lost = {s: n for s, n in counts.source_states[source].items() if s != FOUND}
            lines.append(f"  {source}: {count:,}" + _join(lost, ", of which ", ""))
        if counts.oddities:
            lines.append(
                "kept though unlike the published files" + _join(counts.oddities, ": ", "")
            )
        if counts.repeated_images:
            lines.append(f"{counts.repeated_images:,} images are named again")
        for trap in self.traps:
            example = f", such as {trap.example}" if trap.example else ""
            lines.append(f"trap {trap.name}: {trap.count:,} {trap.sentence}{example}")
        return "\n".join(map(printable, lines))


def _join(counts: Mapping[str, int], before: str, after: str) -> str:
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{before}{found}{after}" if found else ""
