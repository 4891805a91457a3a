"""The rows of a run in the order of its plan, each with what the plan says of its image."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from s4v_core.captioning.field_rows import list_texts
from s4v_core.errors import S4VError
from s4v_core.records.captions import CAPTIONS, FIELDS, RESULT_SCHEMA, caption_units
from s4v_core.records.plan import PlanHead, require_plan_head
from s4v_core.records.planned_rows import find_outdated_keys, read_planned_unit
from s4v_core.records.units import UnitFolder
from s4v_core.runs.counts import RunCounts, count_run

FACTS = (
    *("image_id", "source", "status", "reason", "caption", "more_captions", "width", "height"),
    *("image_sha256", "prompt", "model", "model_revision", "sampling"),
)
"""Columns of every run that each `.json` beside a caption holds; those of fields are added."""


class UnfinishedRunError(S4VError):
    """A run has images without a row, and its export was not asked to leave them out."""

    def __init__(self, output: str, sentence: str) -> None:
        super().__init__(output, sentence)
        self.output, self.sentence = output, sentence

    def __str__(self) -> str:
        return (
            f"{self.output} is unfinished: {self.sentence}; nothing was written: run the same "
            "caption command again, or export what is there with --partial"
        )


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a run.

    Attributes:
        planned: Its row of the plan, which says where it is stored.
        result: Its result row.
    """

    planned: dict[str, Any]
    result: dict[str, Any]

    @property
    def image_id(self) -> str:
        return str(self.result["image_id"])

    @property
    def is_ok(self) -> bool:
        return bool(self.result["status"] == "ok")

    @property
    def captions(self) -> list[str]:
        """Its caption, and the further ones that passed the gate."""
        first = [self.result["caption"]] if self.result["caption"] else []
        return [*first, *(self.result["more_captions"] or ())]

    @property
    def texts(self) -> dict[str, str]:
        """The texts of its fields that are ok, by name; empty in a run without fields."""
        return list_texts(self.result)

    def list_facts(self) -> dict[str, Any]:
        """The values in the `.json` beside a caption."""
        facts = {name: self.result[name] for name in FACTS}
        own = [name for name in self.result if name not in RESULT_SCHEMA.names and name != FIELDS]
        facts |= {name: self.result[name] for name in own}
        if self.result.get(FIELDS):
            facts[FIELDS] = json.loads(self.result[FIELDS])
        return facts


@dataclass(frozen=True)
class RunRows:
    """The rows of a run; holds one unit at a time."""

    output: str
    head: PlanHead

    @classmethod
    def open(cls, output: str) -> "RunRows":
        """The rows of a caption run.

        Raises:
            InputError: The folder holds no run.
        """
        return cls(output, require_plan_head(output))

    @cached_property
    def units(self) -> UnitFolder:
        """The unit files, with the columns that the run's settings name."""
        return caption_units(self.output, self.head.settings)

    @cached_property
    def counts(self) -> RunCounts:
        return count_run(self.units, self.head)

    @cached_property
    def done(self) -> list[int]:
        """Units that have rows of this plan, in order."""
        left_out = {*self.counts.missing, *self.counts.foreign}
        return [unit for unit in self.head.units if unit not in left_out]

    def describe_gap(self) -> str | None:
        """A sentence about missing rows; None if every image has its row."""
        counts = self.counts
        lacking = counts.rows - sum(self.head.unit_rows[unit] for unit in self.done)
        if lacking:
            return f"{lacking} of {counts.rows} {CAPTIONS.words.rows} have no row yet"
        if counts.outdated:
            number, images = len(counts.outdated), CAPTIONS.words.rows
            return f"{number} units hold captions of {images} that were replaced since"
        return None

    def read_tables(self) -> Iterator[pa.Table]:
        """The result rows of each unit that is done."""
        return (self.units.read(unit) for unit in self.done)

    def read_units(
        self, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[ImageRow]]]:
        """Number and rows of each of these units, by default of all that are done; without those
        whose images were replaced since."""
        units = self.units
        for unit in self.done if numbers is None else numbers:
            results = {row["image_id"]: row for row in units.read(unit).to_pylist()}
            outdated = find_outdated_keys(units, self.head.parts, unit) or ()
            planned = [p for p in self.read_planned(unit) if p["image_id"] not in outdated]
            yield unit, [ImageRow(p, results[p["image_id"]]) for p in planned]

    def read_images(self) -> Iterator[ImageRow]:
        """Each row in turn."""
        for _, rows in self.read_units():
            yield from rows

    def read_planned(self, unit: int) -> list[dict[str, Any]]:
        """The planned rows of one unit, done or not."""
        rows: list[dict[str, Any]] = read_planned_unit(
            self.output, unit, self.head.parts
        ).to_pylist()
        return rows
