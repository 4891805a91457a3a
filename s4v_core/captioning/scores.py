"""Reads the scores of a caption run: those that were computed after it, else its own column."""

import json
from typing import Any

from s4v_core import storage
from s4v_core.records.quality import QUALITY
from s4v_core.records.units import UnitFolder


def score_units(output: str) -> UnitFolder:
    """The unit files of the scores that were computed after a caption run."""
    return UnitFolder(output, QUALITY)


def place_score_settings(output: str) -> str:
    """URI of the file beside the scores that says what made them."""
    return storage.join(score_units(output).folder, "settings.json")


def read_score_settings(output: str) -> dict[str, Any] | None:
    """The scorer of the scores that were computed after a run; None if there are none."""
    try:
        found: dict[str, Any] = json.loads(storage.read(place_score_settings(output)))
    except FileNotFoundError:
        return None
    return found


class Scores:
    """The scores of a run, unit by unit; one listing when it is made."""

    def __init__(self, output: str) -> None:
        self._units = score_units(output)
        self._done = self._units.list_done()

    def fill_in(self, unit: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of a unit's captions with their scores in the column quality.

        A score that was computed after the run counts before one that was computed in it.
        """
        if unit not in self._done:
            return [{"quality": None} | row for row in rows]
        scored = self._units.read(unit).select(["image_id", "score"]).to_pylist()
        scores = {row["image_id"]: row["score"] for row in scored if row["score"] is not None}
        return [row | {"quality": scores.get(row["image_id"], row.get("quality"))} for row in rows]
