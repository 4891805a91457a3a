"""A score from stored answers: figures by two rules, counts of what did not fit, and warnings.

Runs no model and reaches no network beyond the files it is given. The same answers in any order
give the same score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.answer_files import read_answers
from s4v_core.evaluation.benchmark import Answer, Benchmark, Figure, Marked, Question
from s4v_core.evaluation.matching import Matched, mark_answers

VERSION = 1
"""Version of the scorers; raised when a change of theirs can move a figure."""

_GAP_POINTS = 0.5
"""Official and lenient figures that differ by more are pointed out."""
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a file of answers on a benchmark.

    Attributes:
        official: Figures by the benchmark's own rule; empty where nothing can be scored here.
        lenient: The same by this project's parser.
        unscored: A sentence on why there are no figures; None if there are.
        models: Ids of models that the answers name.
        judges: Ids of the judges that the grades name.
        unparsed: Keys of answers in which the lenient parser finds none.
        warnings: Sentences that belong beside the score.
        reasons: Why questions have no answer, counted, where a run of this project knows.
        asked: How the model was asked, where a run of this project knows.
    """

    benchmark: Benchmark
    answers: str
    matched: Matched
    official: dict[str, Figure]
    lenient: dict[str, Figure]
    unscored: str | None
    models: tuple[str, ...]
    judges: tuple[str, ...]
    unparsed: list[str]
    warnings: tuple[str, ...]
    reasons: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.matched.marked)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values, without a time, so that scoring twice gives one file."""
        matched = self.matched
        return {
            "benchmark": self.benchmark.name,
            "scorer": f"{self.benchmark.scorer}; s4v scorers version {VERSION}",
            "answers": storage.base_name(self.answers),
            "models": list(self.models),
            "judges": list(self.judges),
            "asked": dict(self.asked),
            "image_mode_of_the_paper": self.benchmark.generation.image_mode,
            "official": _round(self.official),
            "lenient": _round(self.lenient),
            "unscored": self.unscored,
            "questions": self.n,
            "answered": self.n - len(matched.missing),
            "n_missing": len(matched.missing),
            "reasons_of_missing": dict(self.reasons),
            "n_unknown": matched.n_unknown,
            "n_repeated": len(matched.repeated),
            "n_contradicted": len(matched.contradicted),
            "n_other_prompts": len(matched.other_prompts),
            "n_unparsed": len(self.unparsed),
            "missing": matched.missing,
            "unknown": matched.unknown,
            "repeated": matched.repeated,
            "contradicted": matched.contradicted,
            "other_prompts": matched.other_prompts,
            "unparsed": self.unparsed,
            "warnings": list(self.warnings),
        }


def _round(figures: dict[str, Figure]) -> dict[str, dict[str, float]]:
    return {name: {"value": round(one.value, 4), "n": one.n} for name, one in figures.items()}


def score_file(benchmark: Benchmark, data: str, answers: str) -> Score:
    """Score a file of answers on a benchmark whose files lie below `data`.

    Raises:
        InputError: A file is missing, empty, cut off, or of another benchmark.
    """
    return score_answers(benchmark, read_questions(benchmark, data), read_answers(answers), answers)


def read_questions(benchmark: Benchmark, data: str) -> list[Question]:
    """The questions of a benchmark, each with a key of its own.

    Raises:
        InputError: A file is missing, empty or cut off, or holds a question twice.
    """
    questions = benchmark.read(data)
    keys: set[str] = set()
    for question in questions:
        if question.key in keys:
            raise InputError(data, f"holds question {question.key!r} twice")
        keys.add(question.key)
    if not questions:
        raise InputError(data, f"holds no questions of {benchmark.title}")
    return questions


def score_answers(
    benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[Answer], uri: str
) -> Score:
    """Score answers that were read already; `uri` is where they come from, for messages.

    Raises:
        InputError: The answers are those of another benchmark.
    """
    matched = mark_answers(benchmark, questions, answers, uri)
    marked, unscored = matched.marked, _find_hindrance(benchmark, questions, answers)
    figures = {
        kind: {} if unscored else benchmark.figures(marked, kind)
        for kind in ("official", "lenient")
    }
    is_shown = unscored is None
    unparsed = [
        one.question.key
        for one in marked
        if is_shown and one.text is not None and not one.mark.is_parsed
    ]
    official, lenient = figures["official"], figures["lenient"]
    return Score(
        benchmark=benchmark,
        answers=uri,
        matched=matched,
        official=official,
        lenient=lenient,
        unscored=unscored,
        models=_list_names(answers, "model_id"),
        judges=_list_judges(answers) if benchmark.is_judged else (),
        unparsed=unparsed,
        warnings=(
            *_warn_of_size(benchmark, questions),
            *_warn_of_doubles(matched),
            *(
                _warn_of_failed_grades(unparsed, len(marked))
                if benchmark.is_judged
                else _warn_of_gap(marked, official, lenient)
            ),
            *(benchmark.notes if is_shown else ()),
        ),
    )


def _find_hindrance(
    benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[Answer]
) -> str | None:
    if benchmark.is_judged and not has_grades(answers):
        return "not judged: the file holds answers, not a judge's grades of them"
    if benchmark.is_judged:
        judges = _list_judges(answers)
        if len(judges) < 2:
            return None
        return f"not scored: {len(judges)} judges ({', '.join(judges)}) share no figure"
    if any(question.gold is not None or question.humans for question in questions):
        return None
    return "not scored: the answers to these questions are not public"


def has_grades(answers: Sequence[Answer]) -> bool:
    """Whether a file of a judged benchmark holds a judge's grades, rather than answers."""
    return any("content" in answer.row or "score" in answer.row for answer in answers)


def _list_judges(answers: Sequence[Answer]) -> tuple[str, ...]:
    return _list_names(answers, "model", "judge")


def _list_names(answers: Sequence[Answer], *fields: str) -> tuple[str, ...]:
    """The values of the records in some fields, each one once."""
    found = [answer.row.get(field) for answer in answers for field in fields]
    names = [name for one in found for name in (one if isinstance(one, list) else [one])]
    return tuple(sorted({str(name) for name in names if name}))


def _warn_of_size(benchmark: Benchmark, questions: Sequence[Question]) -> tuple[str, ...]:
    sizes = benchmark.source.sizes
    if not sizes or len(questions) in sizes:
        return ()
    allowed = " or ".join(f"{size:,}" for size in sizes)
    return (
        f"{len(questions):,} questions, where a whole release has {allowed}: not to be compared "
        "with published scores",
    )


def _warn_of_doubles(matched: Matched) -> tuple[str, ...]:
    if not matched.contradicted:
        return ()
    return (
        f"{len(matched.contradicted)} questions are answered more than once, differently; the "
        "first answer of each counts",
    )


def _warn_of_failed_grades(failed: Sequence[str], n: int) -> tuple[str, ...]:
    if not failed:
        return ()
    return (
        f"{len(failed):,} of {n:,} answers have no grade: the official rule averages them in as "
        "failures, the figure beside it leaves them out",
    )


def _warn_of_gap(
    marked: Sequence[Marked], official: dict[str, Figure], lenient: dict[str, Figure]
) -> tuple[str, ...]:
    """A sentence on a headline that is a matter of format, with examples."""
    name = next(iter(official), "")
    if not name or abs(official[name].value - lenient[name].value) <= _GAP_POINTS:
        return ()
    differing = [
        f"{(one.text or '')[:_EXAMPLE_CHARACTERS]!r} ({one.question.key})"
        for one in marked
        if one.text is not None and one.mark.official != one.mark.lenient
    ]
    examples = ", ".join(sorted(differing, key=len)[:_EXAMPLES])
    return (
        f"{name}: official {official[name].value:.2f} and lenient {lenient[name].value:.2f} differ "
        f"by format: {examples}",
    )


def show_score(score: Score) -> str:
    """A score as a table, with its counts and warnings."""
    lines = [f"{score.benchmark.title}, {storage.base_name(score.answers)}"]
    if score.unscored:
        lines.append(f"  {score.unscored}")
    width = max(map(len, score.official), default=0)
    if score.official:
        lines.append(f"  {'':{width}} {'official':>9} {'lenient':>9} {'n':>8}")
    for name, figure in score.official.items():
        numbers = f"{figure.value:9.2f} {score.lenient[name].value:9.2f} {figure.n:8,}"
        lines.append(f"  {name:{width}} {numbers}")
    matched = score.matched
    counts = {
        "missing (wrong)": len(matched.missing),
        "unparsed": len(score.unparsed),
        "unknown ids": matched.n_unknown,
        "repeated": len(matched.repeated) + len(matched.contradicted),
        "other prompts": len(matched.other_prompts),
    }
    told = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    answered = score.n - len(matched.missing)
    lines.append(
        f"  {answered:,} of {score.n:,} questions answered" + (f"; {told}" if told else "")
    )
    lines += [f"    no answer: {number:,} {reason}" for reason, number in score.reasons.items()]
    lines += _describe_setting(score)
    return "\n".join([*lines, *(f"  note: {warning}" for warning in score.warnings)])


def _describe_setting(score: Score) -> list[str]:
    """The rule, the judge, how the paper asked, and its figures, which a score is read with."""
    asked = score.benchmark.generation
    judges = f"; judged by {', '.join(score.judges)}" if score.judges else ""
    lines = [f"  scorer: {score.benchmark.scorer}{judges}"]
    if score.asked:
        known = score.asked
        most = min(asked.max_tokens, known["max_tokens"] or asked.max_tokens)
        lines.append(
            f"  asked: images {known['framing'] or 'none'} ({known['image_mode']}), template "
            f"{known['template']}, {known['decoding']}, at most {most:,} tokens"
        )
    if score.benchmark.published:
        lines.append(
            f"  the paper asked with images {asked.image_mode}, template {asked.template}, greedy, "
            f"at most {asked.max_tokens:,} tokens"
        )
    for name, one in score.benchmark.published.items():
        lines.append(
            f"  the paper's {name}: ShareGPT4V-7B {one.share_7b}, ShareGPT4V-13B {one.share_13b}, "
            f"LLaVA-1.5-13B {one.llava_13b}"
        )
    return lines
