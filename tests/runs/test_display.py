"""The notes after the progress bar of a run."""

from dataclasses import fields
from typing import Any

from s4v_core.flow.spec import UnitDone
from s4v_core.runs.display import LiveNotes

EMPTY_UNIT: dict[str, Any] = {field.name: 0 for field in fields(UnitDone)} | {
    "reasons": (),
    "sums": {},
}


class Notes(LiveNotes):
    """LiveNotes with a clock that the test sets."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__(clock=lambda: self.now)

    def end_unit(self, at: float, rows: int, ok: int, *reasons: tuple[str, int]) -> None:
        self.now = at
        about = {"generated": rows, "generated_ok": ok, "reasons": reasons}
        self.add(UnitDone(**EMPTY_UNIT | about))


def test_the_rate_covers_the_last_minute_and_needs_more_than_a_moment() -> None:
    notes = Notes()
    notes.end_unit(10, 32, 32)
    notes.end_unit(10.05, 32, 32)
    assert notes.as_text("engine") == "100.0% ok, bound by engine"
    notes.end_unit(20, 8, 4, ("loop", 3), ("refusal", 1))
    assert (
        notes.as_text("read") == "4.0 img/s last minute, 94.4% ok, loop 3, refusal 1, bound by read"
    )
    for at in range(80, 200, 10):
        notes.end_unit(at, 30, 30)
    assert notes.recent_rate() == 3.0
