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

_CREDITS, _SCORES = "credits.json", "scores.json"


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


def read_figures(
    folder: StudyFolder, exams: Sequence[Command], measure: Measure
) -> dict[str, tuple[float, int]]:
    """All figures of a benchmark by their names: mean over the exams, and number of questions."""
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for exam in exams:
        scores = folder.read_json(exam, _SCORES)["scores"]
        own = next(one for one in scores if one["benchmark"] == measure.benchmark)
        for name, figure in own["official"].items():
            if figure["n"]:
                found[name].append((figure["value"], figure["n"]))
    return {
        name: (sum(value for value, _ in values) / len(values), values[0][1])
        for name, values in found.items()
    }


def _read_units(folder: StudyFolder, exam: Command, measure: Measure) -> list[list[Any]]:
    figures = folder.read_json(exam, _CREDITS)[measure.benchmark]
    return sorted(next(iter(figures.values())), key=lambda unit: str(unit[0]))


def _weigh(units: Sequence[Sequence[Any]]) -> list[float]:
    """Credits as points: a figure is the sum over strata of 100 * credits / most."""
    most: dict[str, float] = defaultdict(float)
    for _, _, against, stratum in units:
        most[stratum] += against
    return [100 * len(units) * credit / most[stratum] for _, credit, _, stratum in units]
