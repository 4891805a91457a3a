"""MMBench and MMBench-CN: rotated options, right only if every rotation is."""

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
    Submission,
    Unit,
)
from s4v_core.evaluation.choices import mark_leniently
from s4v_core.evaluation.data_files import decode_cell, find_file, read_records, require_columns
from s4v_core.evaluation.means import accuracy, group_up, percent, split_by
from s4v_core.evaluation.prompts import ask_letter
from s4v_core.evaluation.spreadsheets import write_sheet
from s4v_core.prompts.instructions import LETTER, LETTER_CHINESE

ROTATION = 1_000_000
"""The index of a rotated row is that of the first row and a multiple of this."""

_DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
"""Columns that the server's sheet lacks."""
_PREDICTION_AT = 6


def _read(data: str, patterns: Sequence[str], instruction: str) -> list[Question]:
    uri = find_file(data, *patterns)
    rows = read_records(uri)
    if rows:
        require_columns(uri, rows[0], ("index", "question", "A", "B"), "MMBench")
    questions = [_build(uri, number, row, instruction) for number, row in enumerate(rows, 1)]
    if len({one.key for one in questions}) != len(questions):
        raise InputError(uri, "holds an index twice; take the file as it was released")
    return questions


def _build(uri: str, number: int, row: dict[str, Any], instruction: str) -> Question:
    index = _clean(row["index"])
    if not index.isdigit():
        raise InputError(uri, f"row {number}: found index {index!r}, expected a number")
    options: dict[str, str] = {}
    for letter in "ABCD":
        text = _clean(row.get(letter))
        if not text:
            break
        options[letter] = text
    hint, question = _clean(row.get("hint")), str(row["question"])
    text = f"{hint}\n{question}" if hint else question
    labels = {name: _clean(row.get(name)) for name in ("category", "l2-category")}
    return Question(
        key=index,
        prompt=ask_letter(text, options, instruction),
        text=question,
        gold=_clean(row.get("answer")) or None,
        options=options,
        group=str(int(index) % ROTATION),
        labels={**labels, "rotation": str(int(index) // ROTATION)},
        row={name: value for name, value in row.items() if name not in _DROPPED},
    )


def _read_pictures(data: str, patterns: Sequence[str]) -> dict[str, bytes]:
    """The pictures by index. A cell holds one in base64, or the index of the row that has it."""
    uri = find_file(data, *patterns)
    cells = {_clean(row["index"]): _clean(row.get("image")) for row in read_records(uri)}
    found = {}
    for index, cell in cells.items():
        picture = decode_cell(cells.get(cell, cell))
        if picture:
            found[index] = picture
    return found


def _clean(value: Any) -> str:
    """A cell's text; blank, nan and none are no text."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in ("nan", "none") else text


def units(marked: Sequence[Marked]) -> dict[str, list[Unit]]:
    """Each group of rotations, right if every one of them is."""
    return {"circular": _list_groups(marked, "official")}


def _list_groups(marked: Sequence[Marked], kind: Kind) -> list[Unit]:
    return [
        Unit(group, float(all(one.mark.credit(kind) for one in rows)))
        for group, rows in group_up(marked).items()
    ]


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Circular accuracy, over all and by category; then that of first rows, and of all rows."""
    first = [one for one in marked if one.question.labels["rotation"] == "0"]
    found = {"circular": _circular(marked, kind)}
    found |= {"first rows": accuracy(first, kind), "all rows": accuracy(marked, kind)}
    labels = {one.question.group: one.question.labels for one in reversed(marked)}
    for name in ("l2-category", "category"):
        parts = split_by(marked, lambda one, name=name: labels[one.question.group][name])  # type: ignore[misc]
        found |= {f"{name}: {label}": _circular(part, kind) for label, part in parts.items()}
    return found


def _circular(marked: Sequence[Marked], kind: Kind) -> Figure:
    return percent(unit.credit for unit in _list_groups(marked, kind))


def build_sheet(marked: Sequence[Marked]) -> bytes:
    """The sheet that the server takes: the data's columns, and `prediction` before the answer."""
    columns = list(marked[0].question.row)
    columns = [name for name in columns if name != "prediction"]
    columns.insert(min(_PREDICTION_AT, len(columns)), "prediction")
    rows = []
    for one in marked:
        values = {**one.question.row, "prediction": one.text or ""}
        rows.append([_as_cell(name, values.get(name)) for name in columns])
    return write_sheet(columns, rows)


def _as_cell(name: str, value: Any) -> str | int | None:
    if name == "index":
        return int(value)
    return None if value is None else str(value)


def _build_benchmark(
    name: str,
    title: str,
    patterns: Sequence[str],
    instruction: str,
    published: Published,
    folder: str,
) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        source=Source(
            origin="github.com/open-compass/MMBench",
            licence="Apache-2.0 (repository)",
            files=" or ".join(patterns),
            sizes=(4377, 4329),
        ),
        generation=Generation(max_tokens=1024, image_mode="pad"),
        scorer="MMBench circular, letters by s4v's parser (no judge)",
        read=lambda data: _read(data, patterns, instruction),
        read_pictures=lambda data: _read_pictures(data, patterns),
        folders=(folder,),
        mark=mark_leniently,
        figures=figures,
        units=units,
        published={"circular": published},
        submission=Submission(f"{name}_upload.xlsx", build_sheet),
    )


MMBENCH = _build_benchmark(
    "mmbench",
    "MMBench",
    ("mmbench_dev_20230712.tsv", "mmbench_dev_[0-9]*.tsv", "MMBench_DEV_EN*.tsv"),
    LETTER,
    Published(68.8, 68.5, 67.7),
    "MMBench",
)
MMBENCH_CN = _build_benchmark(
    "mmbench-cn",
    "MMBench-CN",
    ("mmbench_dev_cn_20231003.tsv", "mmbench_dev_cn*.tsv", "MMBench_DEV_CN*.tsv"),
    LETTER_CHINESE,
    Published(62.2, 63.7, 63.6),
    "mmbench_cn",
)
