"""Scores of several files of answers, and the files that scoring leaves in a folder."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from s4v_core import storage
from s4v_core.errors import ConfigError
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
    """Mean and spread (largest less smallest) of each official figure over several runs."""
    names = scores[0].official if len(scores) > 1 else {}
    found = {}
    for name in names:
        values = [score.official[name].value for score in scores if name in score.official]
        spread = max(values) - min(values)
        found[name] = {"mean": round(statistics.fmean(values), 4), "spread": round(spread, 4)}
    return found


def write_scores(output: str, scores: Sequence[Score]) -> list[str]:
    """Write scores.json and the file of a remote scorer; the same scores give the same files.

    Returns:
        URIs of the files.

    Raises:
        ConfigError: There is a file that an earlier scoring did not write.
    """
    value: dict[str, Any] = {"scores": [score.as_json() for score in scores]}
    mean = find_mean(scores)
    if mean:
        value["mean of runs"] = mean
    text = json.dumps(value, indent=2, ensure_ascii=False)
    files = {SCORES: text.encode("utf-8", "replace")}
    submission = scores[0].benchmark.submission
    if submission and not _is_graded(scores[0]):
        files[submission.name] = submission.build(scores[0].matched.marked)
    return [_write(output, name, data) for name, data in files.items()]


def _is_graded(score: Score) -> bool:
    return score.benchmark.is_judged and score.unscored is None


def _write(output: str, name: str, data: bytes) -> str:
    place = storage.join(output, name)
    if name == SCORES and storage.stat(place) is not None and not _is_own(place):
        raise ConfigError(f"{place} exists and holds no scores; name another --output")
    storage.replace(place, data)
    return place


def _is_own(uri: str) -> bool:
    try:
        return isinstance(json.loads(storage.read(uri)).get("scores"), list)
    except (ValueError, AttributeError):
        return False
