"""Q-Bench, LLVisionQA: what a model says about the quality of an image."""

from collections.abc import Sequence
from typing import Any

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Answer,
    Benchmark,
    Figure,
    Generation,
    Kind,
    Marked,
    Published,
    Question,
    Source,
)
from s4v_core.evaluation.choices import mark_leniently
from s4v_core.evaluation.data_files import find_file, read_records, require_columns
from s4v_core.evaluation.means import accuracy, accuracy_by, list_units
from s4v_core.evaluation.prompts import list_options

# lmms-eval has names 1 and 2 the other way round; the questions themselves say which is which.
TYPES = {0: "yes/no", 1: "what", 2: "how"}
CONCERNS = {
    0: "distortion",
    1: "others",
    2: "in-context distortion",
    3: "in-context others",
}

_CHOOSE = "\nChoose between one of the options as follows:\n"


def read(data: str) -> list[Question]:
    """Questions of the dev split, or of another split without gold.

    Raises:
        InputError: The file is not LLVisionQA's.
    """
    uri = find_file(data, "llvisionqa_dev.json", "llvisionqa_test.json")
    rows = read_records(uri)
    require_columns(uri, rows[0], ("img_path", "question", "candidates"), "LLVisionQA")
    return [_build(uri, number, row) for number, row in enumerate(rows, 1)]


def _build(uri: str, number: int, row: dict[str, Any]) -> Question:
    options = dict(zip("ABCDEFGH", row["candidates"], strict=False))
    gold = [letter for letter, text in options.items() if text == row.get("correct_ans")]
    if "correct_ans" in row and len(gold) != 1:
        raise InputError(uri, f"record {number}: its answer is not one of its candidates")
    lines = f"{list_options(options)}\n"
    question = row["question"]
    return Question(
        key=_join(row["img_path"], question),
        prompt=f"{question}{_CHOOSE}{lines}",
        text=question,
        image=row["img_path"],
        gold=gold[0] if gold else None,
        options=options,
        labels={
            "type": TYPES.get(row.get("type", -1), ""),
            "concern": CONCERNS.get(row.get("concern", -1), ""),
        },
        aliases=(str(number - 1), str(row["img_path"])),
    )


def _join(image: str, question: str) -> str:
    return f"{image}: {question}"


def find_keys(answer: Answer) -> tuple[str, ...]:
    """By image and question, as the original runner stores them, or by image and prompt; else by
    id."""
    asked = answer.row.get("question") or answer.prompt.partition(_CHOOSE)[0]
    return (_join(str(answer.row.get("img_path") or answer.key), str(asked)), answer.key)


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Accuracy, by type of question and by concern."""
    return {
        "accuracy": accuracy(marked, kind),
        **accuracy_by(marked, kind, "type"),
        **accuracy_by(marked, kind, "concern"),
    }


QBENCH = Benchmark(
    name="qbench",
    title="Q-Bench (LLVisionQA)",
    source=Source(
        origin="github.com/Q-Future/Q-Bench",
        licence="S-Lab 1.0",
        files="llvisionqa_dev.json, images_llvisionqa/",
        sizes=(1495,),
    ),
    generation=Generation(max_tokens=1024, image_mode="crop", template="share4v_v1"),
    scorer="the letter by s4v's parser (the paper's scorer was not published)",
    read=read,
    mark=mark_leniently,
    figures=figures,
    units=list_units,
    published={"accuracy": Published(63.4, 65.2, 62.1)},
    find_keys=find_keys,
    folders=("Q-Bench", "q-bench"),
    name_images=lambda question: (
        f"images_llvisionqa/{question.image}",
        f"images/{question.image}",
        question.image,
    ),
)
