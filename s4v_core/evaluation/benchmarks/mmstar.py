"""MMStar: 1,500 questions with options that cannot be answered without the image."""

import re
from collections.abc import Sequence
from typing import Any

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Benchmark,
    Figure,
    Generation,
    Kind,
    Marked,
    Question,
    Source,
)
from s4v_core.evaluation.choices import mark_by
from s4v_core.evaluation.data_files import decode_cell, find_file, read_records, require_columns
from s4v_core.evaluation.means import accuracy, accuracy_by, list_units
from s4v_core.evaluation.parsers import parse_mmstar
from s4v_core.evaluation.prompts import ask_letter
from s4v_core.prompts.instructions import LETTER

_FILES = ("mmstar.parquet", "val/*.parquet", "MMStar.tsv", "*.parquet")
_INLINE = re.compile(r"\n?Options:\s*(?=A: )")
_OPTION = re.compile(r"(?:^|,\s*|\n)([A-D]): ")


def read(data: str) -> list[Question]:
    """Questions of the Parquet file, which hold their options, or of the TSV, which has columns.

    Raises:
        InputError: The file is not MMStar's.
    """
    uri = find_file(data, *_FILES)
    rows = read_records(uri)
    require_columns(uri, rows[0], ("index", "question", "answer", "category"), "MMStar")
    return [_build(uri, row) for row in rows]


def _build(uri: str, row: dict[str, Any]) -> Question:
    text, options = split_question(row["question"])
    if not options:
        options = {letter: str(row[letter]) for letter in "ABCD" if row.get(letter)}
    gold = str(row["answer"]).strip().upper()
    if gold not in options:
        problem = f"question {row['index']}: found answer {gold!r}, allowed {', '.join(options)}"
        raise InputError(uri, problem)
    is_inline = not row.get("A")
    prompt = f"{row['question']}\n{LETTER}" if is_inline else ask_letter(text, options)
    return Question(
        key=str(row["index"]),
        prompt=prompt,
        text=text,
        gold=gold,
        options=options,
        labels={
            "category": str(row["category"]),
            "l2_category": str(row.get("l2_category") or row.get("l2-category") or ""),
        },
    )


def read_pictures(data: str) -> dict[str, bytes]:
    """The pictures by the questions' index."""
    rows = read_records(find_file(data, *_FILES), ("index", "image"))
    found = {str(row["index"]): decode_cell(row.get("image")) for row in rows}
    return {index: picture for index, picture in found.items() if picture}


def split_question(question: str) -> tuple[str, dict[str, str]]:
    """A question and the options that stand in its text: "... Options: A: x, B: y"."""
    parts = _INLINE.split(question, maxsplit=1)
    if len(parts) == 1:
        return question.strip(), {}
    starts = list(_OPTION.finditer(parts[1]))
    ends = [one.start() for one in starts[1:]] + [len(parts[1])]
    options = {
        one[1]: parts[1][one.end() : end].strip() for one, end in zip(starts, ends, strict=True)
    }
    return parts[0].strip(), options


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Accuracy over all, by capability and by what it consists of."""
    return {
        "accuracy": accuracy(marked, kind),
        **accuracy_by(marked, kind, "category"),
        **accuracy_by(marked, kind, "l2_category"),
    }


MMSTAR = Benchmark(
    name="mmstar",
    title="MMStar",
    source=Source(
        origin="huggingface.co/datasets/Lin-Chen/MMStar",
        licence="none stated by the data card",
        files="mmstar.parquet or MMStar.tsv",
        sizes=(1500,),
    ),
    generation=Generation(max_tokens=128, image_mode="pad"),
    scorer="MMStar evaluation, first letter",
    read=read,
    mark=mark_by(parse_mmstar),
    figures=figures,
    units=list_units,
    read_pictures=read_pictures,
    folders=("MMStar",),
)
