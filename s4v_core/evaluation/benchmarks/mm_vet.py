"""MM-Vet: a judge's grade from 0 to 1 of each answer, by capability."""

import json
from collections.abc import Sequence
from typing import Any

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Answer,
    Benchmark,
    Figure,
    Generation,
    Kind,
    Mark,
    Marked,
    Published,
    Question,
    Source,
    Submission,
)
from s4v_core.evaluation.data_files import find_file, read_json
from s4v_core.evaluation.means import accuracy, list_units, percent, split_by


def read(data: str) -> list[Question]:
    """The 218 questions.

    Raises:
        InputError: The file is not MM-Vet's.
    """
    uri = find_file(data, "mm-vet.json")
    rows = read_json(uri)
    try:
        return [_build(key, row) for key, row in rows.items()]
    except (AttributeError, KeyError, TypeError):
        problem = "is no file of MM-Vet: expected {v1_0: {imagename, question, answer, capability}}"
        raise InputError(uri, problem) from None


def _build(key: str, row: dict[str, Any]) -> Question:
    return Question(
        key=key,
        prompt=row["question"],
        text=row["question"],
        image=row["imagename"],
        gold=row["answer"],
        # The official tool names a set in the order of its hashes, so the names vary.
        labels={"capabilities": ",".join(sorted(row["capability"]))},
        aliases=(key.removeprefix("v1_"),),
    )


def find_keys(answer: Answer) -> tuple[str, ...]:
    return (answer.key, f"v1_{answer.key}")


def mark(question: Question, grades: str) -> Mark:
    """The mean grade of the judge's runs, one a line; without a number the grade is 0, as in the
    original."""
    lines = [line for line in grades.split("\n") if line.strip()]
    found = [_parse_grade(line) for line in lines]
    if None in found[1:]:  # one reply of several lines, not several runs
        found = found[:1]
    parsed = [one for one in found if one is not None]
    grade = sum(parsed) / len(found) if found else 0.0
    return Mark(grade, grade, bool(parsed), f"{grade:g}" if parsed else None)


def _parse_grade(line: str) -> float | None:
    try:
        grade = float(line.split()[0])
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """100 * mean grade over all, by capability, and by exact set of capabilities."""
    sets = split_by(marked, lambda one: one.question.labels["capabilities"])
    names = ["rec", "ocr", "know", "gen", "spat", "math"]
    single = {
        name: percent(
            one.mark.credit(kind)
            for one in marked
            if name in one.question.labels["capabilities"].split(",")
        )
        for name in names
    }
    return {
        "grade": accuracy(marked, kind),
        **{name: figure for name, figure in single.items() if figure.n},
        **{f"set: {name}": accuracy(part, kind) for name, part in sets.items()},
    }


def build_upload(marked: Sequence[Marked]) -> bytes:
    """{v1_0: text, ...}: MM-Vet's online evaluator wants every question."""
    texts = {one.question.key: one.text or "" for one in marked}
    return json.dumps(texts, indent=2, ensure_ascii=False).encode()


MM_VET = Benchmark(
    name="mm-vet",
    title="MM-Vet",
    source=Source(
        origin="github.com/yuweihao/MM-Vet",
        licence="CC BY-NC 4.0",
        files="mm-vet.json, images/",
        sizes=(218,),
    ),
    generation=Generation(max_tokens=1024, image_mode="crop"),
    scorer="mm-vet_evaluator.py, mean grade",
    read=read,
    mark=mark,
    figures=figures,
    units=lambda marked: list_units(marked, "grade"),
    find_keys=find_keys,
    folders=("mm_vet", "MM-Vet"),
    submission=Submission("mm-vet_upload.json", build_upload),
    published={"grade": Published(37.6, 43.1, 35.4)},
    is_judged=True,
)
