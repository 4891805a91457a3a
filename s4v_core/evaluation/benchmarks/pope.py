"""POPE: whether an object is in the image, in three ways of choosing the objects that are not."""

from collections.abc import Sequence
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Answer,
    Benchmark,
    Figure,
    Generation,
    Kind,
    Mark,
    Marked,
    Question,
    Source,
)
from s4v_core.evaluation.data_files import find_files, read_records, require_columns
from s4v_core.evaluation.means import accuracy, list_units, percent, split_by
from s4v_core.evaluation.parsers import parse_pope, parse_yes_no
from s4v_core.evaluation.prompts import ask_short

CATEGORIES = ("random", "popular", "adversarial")


def read(data: str) -> list[Question]:
    """Questions of the files *_pope_random.json, *_pope_popular.json and *_pope_adversarial.json.

    Raises:
        InputError: A file is not POPE's.
    """
    known = _read_llava_ids(data)
    found = []
    for uri in find_files(data, "*pope_*.json", "coco/*pope_*.json"):
        name = storage.base_name(uri)
        category = next((one for one in CATEGORIES if one in name), "all")
        rows = read_records(uri)
        require_columns(uri, rows[0], ("question_id", "image", "text", "label"), "POPE")
        found += [_build(uri, row, category, known) for row in rows]
    return found


def _read_llava_ids(data: str) -> dict[tuple[str, ...], str]:
    """Ids of LLaVA's own list of the questions, which are others, by what they ask."""
    uri = storage.join(data, "llava_pope_test.jsonl")
    if storage.stat(uri) is None:
        return {}
    return {
        (row["category"], row["image"], row["text"].partition("\n")[0]): str(row["question_id"])
        for row in read_records(uri)
    }


def _build(
    uri: str, row: dict[str, Any], category: str, known: dict[tuple[str, ...], str]
) -> Question:
    gold = str(row["label"]).lower()
    if gold not in ("yes", "no"):
        raise InputError(
            uri, f"question {row['question_id']}: found label {gold!r}, allowed yes, no"
        )
    return Question(
        key=f"{category}/{row['question_id']}",
        prompt=ask_short(row["text"]),
        text=row["text"],
        image=row["image"],
        gold=gold,
        labels={"category": category},
        # Where LLaVA's list is there, a bare id is one of its ids.
        aliases=(known.get((category, row["image"], row["text"]), str(row["question_id"])),),
    )


def find_keys(answer: Answer) -> tuple[str, ...]:
    """By category and id: the three files number their questions alike."""
    category = answer.row.get("category") or (answer.row.get("metadata") or {}).get("category")
    return (f"{category}/{answer.key}", answer.key)


def mark(question: Question, reply: str) -> Mark:
    said, lenient = parse_pope(reply), parse_yes_no(reply)
    return Mark(
        official=float(said == question.gold),
        lenient=float(lenient == question.gold),
        is_parsed=lenient is not None,
        said=said,
    )


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Mean F1 of the categories, accuracy, share of yes, then F1 and accuracy of each."""
    parts = split_by(marked, lambda one: one.question.labels["category"])
    f1 = {name: _find_f1(part, kind) for name, part in parts.items()}
    mean = sum(one.value for one in f1.values()) / len(f1)
    return {
        "F1": Figure(mean, len(marked)),
        "accuracy": accuracy(marked, kind),
        "yes": percent(_says_yes(one, kind) for one in marked),
        **{f"F1: {name}": figure for name, figure in f1.items()},
        **{f"accuracy: {name}": accuracy(part, kind) for name, part in parts.items()},
    }


def _says_yes(one: Marked, kind: Kind) -> bool:
    """Whether the answer counts as yes; a wrong or missing one as the opposite of its label."""
    return (one.question.gold == "yes") == bool(one.mark.credit(kind))


def _find_f1(marked: Sequence[Marked], kind: Kind) -> Figure:
    said = [_says_yes(one, kind) for one in marked]
    present = [one.question.gold == "yes" for one in marked]
    both = sum(a and b for a, b in zip(said, present, strict=True))
    total = sum(said) + sum(present)
    return Figure(200 * both / total if total else 0.0, len(marked))


POPE = Benchmark(
    name="pope",
    title="POPE",
    source=Source(
        origin="github.com/AoiDragon/POPE, output/coco",
        licence="MIT (repository); images: COCO val2014, Flickr's terms",
        files="coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json",
        sizes=(9000, 8910, 3000),
    ),
    generation=Generation(max_tokens=128, image_mode="pad"),
    scorer="POPE evaluate.py",
    read=read,
    mark=mark,
    figures=figures,
    units=list_units,
    find_keys=find_keys,
    folders=("POPE",),
    name_images=lambda question: (f"val2014/{question.image}", question.image),
    notes=("Compared by accuracy: F1 is no mean of questions.",),
)
