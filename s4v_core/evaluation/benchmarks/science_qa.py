"""ScienceQA: the questions of the test split with an image (SQA-I), and all of them."""

import re
from collections.abc import Sequence
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Benchmark,
    Figure,
    Generation,
    Kind,
    Mark,
    Marked,
    Published,
    Question,
    Source,
    Unit,
)
from s4v_core.evaluation.choices import mark_letter
from s4v_core.evaluation.data_files import find_file, read_json, read_records
from s4v_core.evaluation.means import accuracy, accuracy_by, list_units
from s4v_core.evaluation.parsers import parse_science_qa
from s4v_core.evaluation.prompts import ask_letter
from s4v_core.prompts.instructions import LETTER

_LETTERS = "ABCDE"
_OPTION = re.compile(r"^([A-E])\. ", re.MULTILINE)


def read(data: str) -> list[Question]:
    """The test split, from LLaVA's list of conversations or from problems.json.

    Raises:
        InputError: Neither is found, or a record is not ScienceQA's.
    """
    uri = find_file(data, "llava_test_CQM-A.json", "problems.json")
    if storage.base_name(uri) == "problems.json":
        return _read_problems(uri)
    return [_build_conversation(uri, at, row) for at, row in enumerate(read_records(uri), 1)]


def _build_conversation(uri: str, number: int, row: dict[str, Any]) -> Question:
    try:
        asked, gold = (turn["value"] for turn in row["conversations"][:2])
        key = str(row["id"])
    except (KeyError, TypeError, ValueError):
        problem = f"record {number} is no question of ScienceQA: expected id and conversations"
        raise InputError(uri, problem) from None
    text = asked.replace("<image>", "").strip()
    options = split_options(text)
    if gold not in options:
        raise InputError(uri, f"record {number}: found answer {gold!r}, allowed {list(options)}")
    return _build(key, text, options, gold, row.get("image") or "")


def split_options(text: str) -> dict[str, str]:
    """The options that a question's text ends with."""
    starts = list(_OPTION.finditer(text))
    first = max((at for at, one in enumerate(starts) if one[1] == "A"), default=len(starts))
    starts = starts[first:]
    ends = [one.start() - 1 for one in starts[1:]] + [len(text)]
    return {one[1]: text[one.end() : end] for one, end in zip(starts, ends, strict=True)}


def _read_problems(uri: str) -> list[Question]:
    splits = read_json(storage.join(storage.parent(uri), "pid_splits.json"))
    problems = read_json(uri)
    try:
        return [_build_problem(str(pid), problems[pid]) for pid in splits["test"]]
    except (KeyError, TypeError) as error:
        raise InputError(uri, f"lacks {error} of the test split in pid_splits.json") from None


def _build_problem(pid: str, problem: dict[str, Any]) -> Question:
    options = dict(zip(_LETTERS, problem["choices"], strict=False))
    context = problem.get("hint")
    question = f"Context: {context}\n{problem['question']}" if context else problem["question"]
    text = ask_letter(question, options, "").rstrip("\n")
    return _build(
        pid,
        text,
        options,
        _LETTERS[problem["answer"]],
        f"{pid}/{problem['image']}" if problem.get("image") else "",
        problem.get("subject") or "",
    )


def _build(
    key: str, text: str, options: dict[str, str], gold: str, image: str, subject: str = ""
) -> Question:
    labels = {"kind": "image" if image else "text", "subject": subject}
    # The text of a conversation and that of problems.json differ in their contexts.
    asked = text.splitlines()[-len(options) - 1] if len(text.splitlines()) > len(options) else text
    prompt = f"{text}\n{LETTER}"
    return Question(
        key=key,
        prompt=prompt,
        text=asked,
        image=image,
        gold=gold,
        options=options,
        labels=labels,
    )


def mark(question: Question, reply: str) -> Mark:
    return mark_letter(question, parse_science_qa(reply, question.options), reply)


def _with_image(marked: Sequence[Marked]) -> list[Marked]:
    return [one for one in marked if one.question.image]


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Accuracy with an image, over all, without one, and by subject where that is known."""
    text_only = [one for one in marked if not one.question.image]
    return {
        "image": accuracy(_with_image(marked), kind),
        "all": accuracy(marked, kind),
        "text only": accuracy(text_only, kind),
        **accuracy_by(_with_image(marked), kind, "subject"),
    }


def units(marked: Sequence[Marked]) -> dict[str, list[Unit]]:
    return list_units(_with_image(marked), "image")


SCIENCE_QA = Benchmark(
    name="scienceqa",
    title="ScienceQA-IMG",
    source=Source(
        origin="github.com/lupantech/ScienceQA",
        licence="CC BY-NC-SA 4.0",
        files="problems.json and pid_splits.json, or llava_test_CQM-A.json; images/test/",
        sizes=(4241, 2017),
    ),
    generation=Generation(max_tokens=1024, image_mode="crop"),
    scorer="eval_science_qa.py",
    read=read,
    mark=mark,
    figures=figures,
    published={"image": Published(68.4, 71.2, 71.6)},
    units=units,
    folders=("ScienceQA", "sqa"),
    name_images=lambda question: (
        f"images/test/{question.image}",
        f"test/{question.image}",
        f"images/{question.image}",
        question.image,
    ),
)
