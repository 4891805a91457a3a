"""Marks of questions with options, by letters."""

from collections.abc import Callable

from s4v_core.evaluation.benchmark import Mark, Question
from s4v_core.evaluation.parsers import parse_letter


def mark_letter(question: Question, said: str | None, reply: str) -> Mark:
    """The mark of a reply whose letter by the official rule is `said`."""
    chosen = parse_letter(reply, question.options)
    return Mark(
        official=float(said is not None and said == question.gold),
        lenient=float(chosen is not None and chosen == question.gold),
        is_parsed=chosen is not None,
        said=said if said in question.options else None,
    )


def mark_by(parse: Callable[[str], str | None]) -> Callable[[Question, str], Mark]:
    """A function that marks replies by a parser that knows no options."""
    return lambda question, reply: mark_letter(question, parse(reply), reply)


def mark_leniently(question: Question, reply: str) -> Mark:
    """The mark where this project's parser stands in for a judge or for a scorer that was never
    published."""
    return mark_letter(question, parse_letter(reply, question.options), reply)
