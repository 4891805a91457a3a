"""Scores of several files of answers, and the files that scoring leaves in a folder."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from s4v_core import storage
from s4v_core.evaluation.answer_files import read_answers
from s4v_core.evaluation.benchmark import Benchmark
from s4v_core.evaluation.scoring import Score, read_questions, score_answers

SCORES = "scores.json"


def score_files(benchmark: Benchmark, data: str, answers: Sequence[str]) -> list[Score]:
    """Score each file of answers on the same questions.

    Raises:
        InputError: A file is missing, empty, cut off, or of another benchmark.
    """
    questions = read_questions(benchmark, data)
    return [score_answers(benchmark, questions, read_answers(uri), uri) for uri in answers]


def find_mean(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Mean and spread (largest less smallest) of each official figure over several runs of one
    benchmark; nothing if the scores are of several benchmarks."""
    is_repeated = len(scores) > 1 and len({score.benchmark.name for score in scores}) == 1
    names = scores[0].official if is_repeated else {}
    found = {}
    for name in names:
        values = [score.official[name].value for score in scores if name in score.official]
        spread = max(values) - min(values)
        found[name] = {"mean": round(statistics.fmean(values), 4), "spread": round(spread, 4)}
    return found


def show_mean(scores: Sequence[Score]) -> str:
    """The mean of the headline over several runs; empty for a single one."""
    name, figures = next(iter(find_mean(scores).items()), ("", {}))
    if not name:
        return ""
    return (
        f"{name}, mean of {len(scores)} runs: {figures['mean']:.2f}, largest less smallest "
        f"{figures['spread']:.2f}"
    )


def write_scores(output: str, scores: Sequence[Score]) -> list[str]:
    """Write scores.json and the files of remote scorers; the same scores give the same files.

    Returns:
        URIs of the files.

    Raises:
        ConfigError: There is a file that no scoring wrote.
    """
    value: dict[str, Any] = {"scores": [score.as_json() for score in scores]}
    mean = find_mean(scores)
    if mean:
        value["mean of runs"] = mean
    text = json.dumps(value, indent=2, ensure_ascii=False)
    files = {SCORES: text.encode("utf-8", "replace")}
    for score in reversed(scores):  # of several runs the first counts
        submission = score.benchmark.submission
        if submission and not _is_graded(score):
            files[submission.name] = submission.build(score.matched.marked)
    places = [storage.Receipts(output, storage.join(output, name)) for name in files]
    for place, data in zip(places, files.values(), strict=True):
        place.put(data)
    return [place.place for place in places]


def _is_graded(score: Score) -> bool:
    return score.benchmark.is_judged and score.unscored is None
