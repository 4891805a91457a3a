"""Stored scores of a study's exams as arrays: points by seed and question."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s4v_core.errors import InputError
from s4v_core.reproduction.command import Command
from s4v_core.reproduction.effects import Array
from s4v_core.reproduction.records import StudyFolder

_CREDITS = "credits.json"


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that every exam has.

    Attributes:
        benchmark: Name of the benchmark.
        title: Name of the column.
    """

    benchmark: str
    title: str


MEASURES = (
    Measure("mme", "MME form"),
    Measure("mmbench", "MMBench form"),
    Measure("vqav2", "VQA form"),
)


def read_points(folder: StudyFolder, exams: Sequence[Command], measure: Measure) -> Array:
    """Points by exam and question; the mean of a row is the figure of its exam.

    Raises:
        InputError: Exams are over other questions.
    """
    rows = []
    keys: list[str] = []
    for exam in exams:
        units = _read_units(folder, exam, measure)
        found = [unit[0] for unit in units]
        if keys and found != keys:
            raise InputError(exam.locate(folder.runs), "its questions are not those of its arm")
        keys = found
        rows.append(_weigh(units))
    return np.array(rows)


def _read_units(folder: StudyFolder, exam: Command, measure: Measure) -> list[list[Any]]:
    figures = folder.read_json(exam, _CREDITS)[measure.benchmark]
    return sorted(next(iter(figures.values())), key=lambda unit: str(unit[0]))


def _weigh(units: Sequence[Sequence[Any]]) -> list[float]:
    """Credits as points: a figure is the sum over strata of 100 * credits / most."""
    most: dict[str, float] = defaultdict(float)
    for _, _, against, stratum in units:
        most[stratum] += against
    return [100 * len(units) * credit / most[stratum] for _, credit, _, stratum in units]
