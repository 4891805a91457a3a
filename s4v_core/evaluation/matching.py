"""Answers beside their questions. The number of questions never shrinks: what has no answer is
wrong, and what fits no question is counted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import Answer, Benchmark, Mark, Marked, Question

_LISTED = 100
"""Unknown ids that are written out; missing answers are, all."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Questions with their marks, in the order of the questions, and what did not fit.

    Attributes:
        missing: Keys of questions without an answer.
        unknown: First ids of answers to no question, and `n_unknown` their number.
        repeated: Keys of questions that the file answers more than once with the same text.
        contradicted: Keys of questions answered more than once, differently; the first counts.
        other_prompts: Keys whose stored prompt does not contain the question.
    """

    marked: list[Marked]
    missing: list[str]
    unknown: list[str]
    n_unknown: int
    repeated: list[str]
    contradicted: list[str]
    other_prompts: list[str]


def mark_answers(
    benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[Answer], uri: str
) -> Matched:
    """Mark every question of a benchmark by its answer.

    Raises:
        InputError: The answers are those of another benchmark.
    """
    places = _index(questions)
    found: dict[str, list[Answer]] = {}
    unknown: list[str] = []
    for answer in answers:
        names = (answer.key,) if answer.has_exact_key else benchmark.find_keys(answer)
        key = next((places[name] for name in names if name in places), None)
        unknown.append(answer.key) if key is None else found.setdefault(key, []).append(answer)
    is_stray = len(unknown) * 2 > len(answers) and len(found) * 2 < len(questions)
    if is_stray or (answers and not found):  # ids that are mere numbers agree here and there
        raise InputError(uri, _describe_strangers(benchmark, questions, unknown, len(answers)))
    others = _find_other_prompts(questions, found)
    if len(others) * 2 > len(found):
        raise InputError(uri, _describe_prompts(benchmark, questions, found, others))
    marked = [_mark(benchmark, question, found.get(question.key)) for question in questions]
    texts = {key: {one.text for one in several} for key, several in found.items()}
    doubled = [key for key, several in found.items() if len(several) > 1]
    return Matched(
        marked=marked,
        missing=[one.question.key for one in marked if one.text is None],
        unknown=sorted(unknown)[:_LISTED],
        n_unknown=len(unknown),
        repeated=sorted(key for key in doubled if len(texts[key]) == 1),
        contradicted=sorted(key for key in doubled if len(texts[key]) > 1),
        other_prompts=sorted(others),
    )


def _index(questions: Sequence[Question]) -> dict[str, str]:
    """Keys of questions by every id that leads to one; an alias of two questions leads nowhere."""
    places: dict[str, str] = {}
    shared: set[str] = set()
    for question in questions:
        for alias in question.aliases:
            if places.setdefault(alias, question.key) != question.key:
                shared.add(alias)
    for alias in shared:
        del places[alias]
    return places | {question.key: question.key for question in questions}


def _mark(benchmark: Benchmark, question: Question, answers: list[Answer] | None) -> Marked:
    if answers is None:
        return Marked(question, None, benchmark.mark_missing(question))
    text = answers[0].text  # a later one would reward asking again
    mark: Mark = benchmark.mark(question, text)
    return Marked(question, text, mark)


def _find_other_prompts(questions: Sequence[Question], found: dict[str, list[Answer]]) -> list[str]:
    asked = {question.key: _fold(question.text) for question in questions}
    return [
        key
        for key, answers in found.items()
        if answers[0].prompt and asked[key] not in _fold(answers[0].prompt)
    ]


def _fold(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _describe_strangers(
    benchmark: Benchmark, questions: Sequence[Question], unknown: Sequence[str], n: int
) -> str:
    count = "none" if len(unknown) == n else f"only {n - len(unknown)}"
    return (
        f"{count} of its {n} answers belongs to a question of {benchmark.title}: found id "
        f"{unknown[0]!r}, expected one such as {questions[0].key!r}; choose its benchmark with "
        "--benchmarks"
    )


def _describe_prompts(
    benchmark: Benchmark,
    questions: Sequence[Question],
    found: dict[str, list[Answer]],
    others: Sequence[str],
) -> str:
    asked = next(question.text for question in questions if question.key == others[0])
    return (
        f"{len(others)} of {len(found)} answers were asked something else than {benchmark.title} "
        f"asks: question {others[0]!r} is {asked[:60]!r}, its answer's prompt is "
        f"{found[others[0]][0].prompt[:60]!r}; choose their benchmark with --benchmarks"
    )
