"""StableLLaVA's twelve abilities: a reply is right if it names the keywords of its question.

The paper's questions were never released, and its figures come from people; the layout and the rule
here are this project's. The same match says which questions the training data already answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Benchmark,
    Figure,
    Generation,
    Kind,
    Mark,
    Marked,
    Question,
    Source,
    Unit,
)
from s4v_core.evaluation.data_files import find_file, read_records
from s4v_core.evaluation.lemmas import find_forms, holds_phrase
from s4v_core.evaluation.means import accuracy, accuracy_by, split_by

ABILITIES = (
    *("animal", "abnormal", "style", "action", "vehicle", "food"),
    *("color", "plant", "scene", "furniture", "hair", "profession"),
)
_LAYOUT = "question_id, image, question, ability, source and keywords, a list of lists of words"


def read(data: str) -> list[Question]:
    """Questions of a .jsonl file in this project's layout.

    Raises:
        InputError: A record has another layout, or another ability or source.
    """
    uri = find_file(data, "keywords.jsonl", "*.jsonl")
    return [_build(uri, number, row) for number, row in enumerate(read_records(uri), 1)]


def _build(uri: str, number: int, row: Mapping[str, Any]) -> Question:
    keywords = row.get("keywords")
    if not _is_keywords(keywords) or not {"question_id", "image", "question"} <= row.keys():
        raise InputError(uri, f"record {number}: expected {_LAYOUT}")
    allowed = {"ability": ABILITIES, "source": ("real", "generated")}
    for name, values in allowed.items():
        if row.get(name) not in values:
            found = f"found {name} {row.get(name)!r}, allowed {', '.join(values)}"
            raise InputError(uri, f"record {number}: {found}")
    return Question(
        key=str(row["question_id"]),
        prompt=row["question"],
        text=row["question"],
        image=row["image"],
        gold=" or ".join(" and ".join(several) for several in row["keywords"]),
        labels={"ability": row["ability"], "source": row["source"]},
        row={"keywords": row["keywords"]},
    )


def _is_keywords(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(several, list) and several for several in value)
        and all(isinstance(one, str) and find_forms(one) for several in value for one in several)
    )


def names_keywords(text: str, keywords: Sequence[Sequence[str]]) -> bool:
    """Whether a text names all keywords of one alternative, in any inflection and order; a keyword
    of several words stands in one piece."""
    words = find_forms(text)
    return any(all(holds_phrase(words, find_forms(one)) for one in several) for several in keywords)


def mark(question: Question, reply: str) -> Mark:
    credit = float(names_keywords(reply, question.row["keywords"]))
    return Mark(credit, credit, is_parsed=bool(find_forms(reply)))


def find_leaks(
    questions: Sequence[Question], records: Iterable[tuple[str, str]]
) -> dict[str, list[int]]:
    """Places of the training records whose prompt and answer both name a question's keywords.

    Args:
        records: Prompt and answer of each record, in order.

    Returns:
        Places by the key of the question; questions that no record answers are left out.
    """
    by_form: dict[str, list[tuple[Question, Sequence[str]]]] = {}
    for question in questions:
        for several in question.row["keywords"]:
            for form in find_forms(several[0])[0]:
                by_form.setdefault(form, []).append((question, several))
    leaks: dict[str, list[int]] = {}
    for place, (prompt, answer) in enumerate(records):
        forms = frozenset().union(*find_forms(answer))
        for question, several in (one for form in forms for one in by_form.get(form, ())):
            known = leaks.get(question.key, [])
            is_new = not known or known[-1] != place
            if is_new and all(names_keywords(text, [several]) for text in (prompt, answer)):
                leaks.setdefault(question.key, []).append(place)
    return leaks


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Mean over the abilities, accuracy over all, by source, by ability, and by both."""
    by_ability = accuracy_by(marked, kind, "ability")
    mean = sum(one.value for one in by_ability.values()) / len(by_ability)
    both = split_by(marked, lambda one: " ".join(one.question.labels.values()))
    return {
        "mean of abilities": Figure(mean, len(marked)),
        "accuracy": accuracy(marked, kind),
        **accuracy_by(marked, kind, "source"),
        **by_ability,
        **{name: accuracy(part, kind) for name, part in both.items()},
    }


def units(marked: Sequence[Marked]) -> dict[str, list[Unit]]:
    """Each question, in the stratum of its ability."""
    abilities = {one.question.labels["ability"] for one in marked}
    found = [
        Unit(one.question.key, one.mark.official, len(abilities), one.question.labels["ability"])
        for one in marked
    ]
    return {"mean of abilities": found}


STABLELLAVA = Benchmark(
    name="stablellava",
    title="StableLLaVA's keywords",
    source=Source(
        origin="never released (arxiv.org/abs/2308.10253); questions of your own",
        licence="that of your questions",
        files="keywords.jsonl",
        sizes=(1200,),
    ),
    generation=Generation(max_tokens=1024, image_mode="pad"),
    scorer="keywords by s4v's word forms (the paper asked people)",
    read=read,
    mark=mark,
    figures=figures,
    units=units,
)
