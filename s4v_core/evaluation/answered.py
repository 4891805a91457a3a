"""The answers of a run, from its rows: as values that scorers take, and as files in the layout of
LLaVA's tools."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from s4v_core import storage
from s4v_core.evaluation.asking import CheckedEvaluation, QuestionSet
from s4v_core.evaluation.benchmark import Answer
from s4v_core.evaluation.scoring import Score, score_answers
from s4v_core.records.units import UnitFolder

_COLUMNS = (
    *("benchmark", "question_id", "answer_id", "prompt", "answer", "status", "reason"),
    *("finish_reason", "framing", "model", "model_revision", "engine", "sampling"),
)


@dataclass(frozen=True, slots=True)
class AnsweredSet:
    """A benchmark's questions with a model's answers.

    Attributes:
        answers: One for each question that has an answer; a judge's grades may replace them.
        reasons: Why the others have none, counted.
        framings: How the images were framed.
    """

    asked: QuestionSet
    answers: list[Answer]
    reasons: dict[str, int] = field(default_factory=dict)
    framings: tuple[str, ...] = ()


def read_answered(checked: CheckedEvaluation, units: UnitFolder) -> list[AnsweredSet]:
    """The answers of a finished run, by benchmark."""
    found: dict[str, list[dict[str, Any]]] = {one.benchmark.name: [] for one in checked.sets}
    for row in _read_rows(units):
        found[row["benchmark"]].append(row)
    return [_build_set(one, found[one.benchmark.name]) for one in checked.sets]


def _read_rows(units: UnitFolder) -> Iterator[dict[str, Any]]:
    for unit in sorted(units.list_done()):
        yield from units.read(unit).select(_COLUMNS).to_pylist()


def _build_set(asked: QuestionSet, rows: Sequence[dict[str, Any]]) -> AnsweredSet:
    return AnsweredSet(
        asked,
        [_build_answer(row) for row in rows if row["status"] == "ok"],
        dict(Counter(row["reason"] for row in rows if row["status"] != "ok").most_common()),
        tuple(sorted({row["framing"] for row in rows if row["framing"]})),
    )


def _build_answer(row: dict[str, Any]) -> Answer:
    names = ("model_revision", "engine", "framing", "finish_reason", "sampling")
    metadata = {"exact_key": True} | {name: row[name] for name in names}
    record = {
        "question_id": row["question_id"],
        "prompt": row["prompt"],
        "text": row["answer"],
        "answer_id": row["answer_id"],
        "model_id": row["model"],
        "metadata": metadata,
    }
    return Answer(row["question_id"], row["answer"], row["prompt"], record)


def score_sets(checked: CheckedEvaluation, sets: Sequence[AnsweredSet]) -> list[Score]:
    """The score of each benchmark."""
    return [_score_set(checked, one) for one in sets]


def _score_set(checked: CheckedEvaluation, one: AnsweredSet) -> Score:
    benchmark = one.asked.benchmark
    place = storage.join(checked.job.output, name_answers(benchmark.name))
    score = score_answers(benchmark, one.asked.questions, one.answers, place)
    asked = checked.describe() | {"framing": ", ".join(one.framings)}
    warnings = score.warnings
    if one.asked.left_out:
        warnings = (f"{one.asked.left_out:,} questions were not asked", *warnings)
    return replace(score, reasons=one.reasons, asked=asked, warnings=warnings)


def name_answers(benchmark: str) -> str:
    """Name of the file with the answers of a benchmark."""
    return f"answers-{benchmark}.jsonl"


def write_answers(output: str, sets: Sequence[AnsweredSet]) -> list[str]:
    """Write a file of answers for each benchmark, which --score-only and --compare read.

    Returns:
        URIs of the files.
    """
    places = []
    for one in sets:
        lines = (json.dumps(answer.row, ensure_ascii=False) for answer in one.answers)
        text = "".join(f"{line}\n" for line in lines)
        place = storage.join(output, name_answers(one.asked.benchmark.name))
        storage.Receipts(output, place).put(text.encode("utf-8", "replace"))
        places.append(place)
    return places
