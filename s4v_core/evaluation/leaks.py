"""Benchmark questions that training data already answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from s4v_core.errors import ConfigError, InputError
from s4v_core.evaluation.benchmark import Benchmark
from s4v_core.evaluation.benchmarks.stablellava import find_leaks
from s4v_core.evaluation.data_files import read_records
from s4v_core.evaluation.scoring import read_questions

_LISTED = 20
_PLACES = 5


def report_leaks(benchmark: Benchmark, data: str, files: Sequence[str]) -> str:
    """Lines on the questions whose keywords stand in prompt and answer of a training record.

    Raises:
        ConfigError: The benchmark has no keywords.
        InputError: A file is missing, empty, cut off, or holds no prompts and answers.
    """
    questions = read_questions(benchmark, data)
    if not all("keywords" in question.row for question in questions):
        raise ConfigError(
            f"training-data: found benchmark {benchmark.name!r}, allowed those with keywords: "
            "stablellava"
        )
    lines = []
    for file in files:
        records = [_split(file, at, row) for at, row in enumerate(read_records(file), 1)]
        leaks = find_leaks(questions, records)
        lines.append(
            f"{file}: {len(leaks):,} of {len(questions):,} questions are answered by its "
            f"{len(records):,} records"
        )
        lines += _list_leaks(leaks)
    return "\n".join(lines)


def _list_leaks(leaks: Mapping[str, list[int]]) -> Iterator[str]:
    for key, places in list(leaks.items())[:_LISTED]:
        shown = ", ".join(str(place + 1) for place in places[:_PLACES])
        more = len(places) - _PLACES
        yield f"  question {key}: records {shown}" + (f" and {more:,} more" if more > 0 else "")
    if len(leaks) > _LISTED:
        yield f"  and {len(leaks) - _LISTED:,} more questions"


def _split(file: str, number: int, row: Mapping[str, Any]) -> tuple[str, str]:
    """Prompt and answer: of StableLLaVA's records, or the turns of a conversation."""
    turns = row.get("conversations")
    if isinstance(turns, list):
        return _join(turns, "human"), _join(turns, "gpt")
    if "prompt" in row and "answer" in row:
        return str(row["prompt"]), str(row["answer"])
    problem = f"record {number} has neither prompt and answer nor conversations"
    raise InputError(file, problem)


def _join(turns: Sequence[Any], speaker: str) -> str:
    texts = (one for one in turns if isinstance(one, dict) and one.get("from") == speaker)
    return "\n".join(str(one.get("value", "")) for one in texts)
