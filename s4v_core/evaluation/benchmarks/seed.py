"""SEED-Bench, image part: four options, generation, the letter exactly."""

from collections.abc import Sequence
from typing import Any

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Benchmark,
    Figure,
    Generation,
    Kind,
    Marked,
    Published,
    Question,
    Source,
    Unit,
)
from s4v_core.evaluation.choices import mark_by
from s4v_core.evaluation.data_files import find_file, read_records
from s4v_core.evaluation.means import accuracy, list_units, split_by
from s4v_core.evaluation.parsers import parse_seed
from s4v_core.evaluation.prompts import ask_letter

_FIRST_VIDEO_TYPE = 10
_LETTERS = "ABCD"


def read(data: str) -> list[Question]:
    """Questions of SEED-Bench.json, or the gold letters of a prediction file of its leaderboard.

    Raises:
        InputError: The file is neither, or gives one question two gold letters.
    """
    uri = find_file(data, "SEED-Bench.json", "SEED-Bench*.json", "GPT-4V.json")
    rows, types = _read_rows(uri)
    questions: dict[str, Question] = {}
    for number, row in enumerate(rows, 1):
        question = _build(uri, number, row, types)
        before = questions.setdefault(question.key, question)
        if before.gold != question.gold:
            problem = f"gives question {question.key} the answers {before.gold} and {question.gold}"
            raise InputError(uri, problem)
    return list(questions.values())


def _read_rows(uri: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Records of the questions, and names of their types by number."""
    records = read_records(uri)
    if len(records) != 1 or "questions" not in records[0]:
        return records, {}
    names = records[0].get("question_type") or {}
    return records[0]["questions"], {str(number): name for name, number in names.items()}


def _build(uri: str, number: int, row: dict[str, Any], types: dict[str, str]) -> Question:
    key, gold = str(row.get("question_id", "")), str(row.get("answer", row.get("gt_answer", "")))
    if not key or gold not in tuple(_LETTERS):
        raise InputError(uri, f"record {number}: expected question_id and an answer A to D")
    options = {letter: str(row.get(f"choice_{letter.lower()}", "")) for letter in _LETTERS}
    kind = row.get("question_type_id")
    is_video = _is_video(key, kind, row.get("data_type"))
    text = str(row.get("question", ""))
    return Question(
        key=key,
        prompt=ask_letter(text, options),
        text=text,
        image=str(row.get("data_id", "")),
        gold=gold,
        options=options,
        labels={
            "medium": "video" if is_video else "image",
            "type": types.get(str(kind), "" if kind is None else str(kind)),
        },
    )


def _is_video(key: str, kind: Any, medium: Any) -> bool:
    if isinstance(kind, int):
        return kind >= _FIRST_VIDEO_TYPE
    return medium == "video" or key.startswith("v")


def _images(marked: Sequence[Marked]) -> list[Marked]:
    return [one for one in marked if one.question.labels["medium"] == "image"]


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Accuracy on images, by type; where there are video questions also theirs, and of all."""
    found = {"image": accuracy(_images(marked), kind)}
    parts = split_by(marked, lambda one: one.question.labels["medium"])
    if "video" in parts:
        found |= {"video": accuracy(parts["video"], kind), "all": accuracy(marked, kind)}
    types = split_by(_images(marked), lambda one: one.question.labels["type"])
    return found | {f"type: {name}": accuracy(part, kind) for name, part in types.items()}


def units(marked: Sequence[Marked]) -> dict[str, list[Unit]]:
    return list_units(_images(marked), "image")


SEED = Benchmark(
    name="seed",
    title="SEED-Bench image",
    source=Source(
        origin="huggingface.co/datasets/AILab-CVC/SEED-Bench",
        licence="CC BY-NC 4.0",
        files="SEED-Bench.json, SEED-Bench-image/",
        sizes=(14_232, 14_233, 17_989, 17_990, 19_241, 19_242),
    ),
    generation=Generation(max_tokens=128, image_mode="pad"),
    scorer="the letter exactly (convert_seed_for_submission.py)",
    read=read,
    mark=mark_by(parse_seed),
    figures=figures,
    published={"image": Published(69.7, 70.8, 68.2)},
    units=units,
    folders=("seed_bench", "SEED-Bench"),
    name_images=lambda question: (f"SEED-Bench-image/{question.image}", question.image),
    is_asked=lambda question: question.labels["medium"] == "image",
)
