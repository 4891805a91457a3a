"""LLaVA-Bench in the wild: a judge's two grades of each answer, the reference's and the model's."""

import re
from collections.abc import Sequence
from typing import Any

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
)
from s4v_core.evaluation.data_files import find_file, read_records, require_columns
from s4v_core.evaluation.means import list_units, split_by


def read(data: str) -> list[Question]:
    """The 60 questions.

    Raises:
        InputError: The file is not LLaVA-Bench's.
    """
    uri = find_file(data, "questions.jsonl")
    rows = read_records(uri)
    require_columns(uri, rows[0], ("question_id", "text", "image", "category"), "LLaVA-Bench")
    return [_build(row) for row in rows]


def _build(row: dict[str, Any]) -> Question:
    return Question(
        key=str(row["question_id"]),
        prompt=row["text"],
        text=row["text"],
        image=row["image"],
        labels={"category": row["category"].removeprefix("llava_bench_")},
    )


def parse_grades(review: str) -> tuple[float, float] | None:
    """The two numbers of a review's first line, as eval_gpt_review_bench.py reads them: commas
    are blanks, and exactly one blank stands between the numbers."""
    parts = review.split("\n")[0].replace(",", " ").strip().split(" ")
    if len(parts) != 2:
        return None
    try:
        return float(parts[0]), float(parts[1])
    except ValueError:
        return None


def _parse_leniently(review: str) -> tuple[float, float] | None:
    found = re.findall(r"\d+(?:\.\d+)?", review.strip().split("\n")[0])
    return (float(found[0]), float(found[1])) if len(found) == 2 else None


def mark(question: Question, review: str) -> Mark:
    """The model's grade, against the reference's. A review without grades counts -1 and -1 in the
    official figure, as in the original, and not at all in the lenient one."""
    grades, lenient = parse_grades(review), _parse_leniently(review)
    reference, own = grades or (-1.0, -1.0)
    said = f"{reference:g} {own:g}" if grades else None
    return Mark(own, lenient[1] if lenient else -1.0, grades is not None, said, reference)


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """100 * mean grade / mean grade of the reference, over all and by category."""
    parts = split_by(marked, lambda one: one.question.labels["category"])
    found = {"ratio": _find_ratio(marked, kind)}
    found |= {f"category: {name}": _find_ratio(part, kind) for name, part in parts.items()}
    return found


def _find_ratio(marked: Sequence[Marked], kind: Kind) -> Figure:
    used = marked if kind == "official" else [one for one in marked if one.mark.is_parsed]
    if not used:
        return Figure(0.0, 0)
    own = round(sum(one.mark.official for one in used) / len(used), 3)
    reference = round(sum(one.mark.against for one in used) / len(used), 3)
    return Figure(100 * own / reference if reference else 0.0, len(used))


def mark_missing(question: Question) -> Mark:
    """No review: no grade for the model, and the best for the reference."""
    return Mark(0.0, 0.0, is_parsed=False, against=10.0)


LLAVA_W = Benchmark(
    name="llava-w",
    title="LLaVA-Bench (in the wild)",
    source=Source(
        origin="huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",
        licence="Apache-2.0 (LLaVA's repository); images of many origins",
        files="questions.jsonl, context.jsonl, answers_gpt4.jsonl, images/",
        sizes=(60,),
    ),
    generation=Generation(max_tokens=1024, image_mode="crop"),
    scorer="summarize_gpt_review.py, ratio of means",
    read=read,
    mark=mark,
    figures=figures,
    units=lambda marked: list_units(marked, "ratio"),
    mark_missing=mark_missing,
    folders=("llava-bench-in-the-wild", "llava_w"),
    published={"ratio": Published(72.6, 79.9, 70.7)},
    is_judged=True,
)
