"""Shares of answers with their intervals, and how far raters agree beyond chance."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

_Z = 1.959963984540054
"""Standard deviations on either side of the mean that hold 95 % of a normal distribution."""

_RESAMPLES = 2_000
_SEED = 0

Ratings = Mapping[int, Mapping[str, str]]
"""The answer of each rater, for each item."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def find_wilson_interval(count: int, total: int) -> Interval:
    """The interval of a share of independent answers (Wilson's score interval)."""
    if not total:
        return Interval(0.0, 1.0)
    share, square = count / total, _Z * _Z
    scale = 1 + square / total
    middle = (share + square / (2 * total)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def draw_share_intervals(ratings: Ratings, answers: Sequence[str]) -> dict[str, Interval]:
    """The interval of the share of each answer, by drawing whole items again.

    Votes about one item resemble each other, so that an interval as of independent votes would be
    too narrow.
    """
    counts = np.array([[list(one.values()).count(a) for a in answers] for one in ratings.values()])
    if not counts.size or not counts.sum():
        return {answer: Interval(0.0, 1.0) for answer in answers}
    chance = np.random.default_rng(_SEED)
    drawn = chance.integers(0, len(counts), (_RESAMPLES, len(counts)))
    sums = np.stack([counts[one].sum(0) for one in drawn])
    shares = sums / np.maximum(sums.sum(1, keepdims=True), 1)
    low, high = np.percentile(shares, (2.5, 97.5), axis=0)
    return {a: Interval(float(low[n]), float(high[n])) for n, a in enumerate(answers)}


def find_fleiss_kappa(ratings: Ratings) -> float | None:
    """Fleiss' kappa over the items that two or more raters answered, each item weighted alike.

    Items may have different numbers of raters. None if there is no such item, or everybody always
    gave one and the same answer, where agreement by chance is certain.
    """
    counts = [Counter(one.values()) for one in ratings.values() if len(one) > 1]
    if not counts:
        return None
    observed = sum(map(_find_agreement, counts)) / len(counts)
    total = Counter[str]()
    for one in counts:
        total += one
    expected = sum((n / total.total()) ** 2 for n in total.values())
    return _correct_for_chance(observed, expected)


def _find_agreement(counts: Counter[str]) -> float:
    """The share of the pairs of raters of an item that agree."""
    raters = counts.total()
    return sum(n * (n - 1) for n in counts.values()) / (raters * (raters - 1))


def find_cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two raters from their answers about the same items, or None."""
    if not pairs:
        return None
    observed = sum(one == other for one, other in pairs) / len(pairs)
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    expected = sum(first[answer] * second[answer] for answer in first) / len(pairs) ** 2
    return _correct_for_chance(observed, expected)


def _correct_for_chance(observed: float, expected: float) -> float | None:
    return (observed - expected) / (1 - expected) if expected < 1 else None


class PairAgreement(NamedTuple):
    """How far two raters agree on the items that both answered."""

    raters: tuple[str, str]
    items: int
    observed: float
    kappa: float | None


def compare_raters(ratings: Ratings) -> list[PairAgreement]:
    """Cohen's kappa of every two raters who answered about common items."""
    names = sorted({rater for one in ratings.values() for rater in one})
    found = []
    for first, second in combinations(names, 2):
        pairs = [
            (one[first], one[second]) for one in ratings.values() if first in one and second in one
        ]
        if pairs:
            observed = sum(a == b for a, b in pairs) / len(pairs)
            kappa = find_cohen_kappa(pairs)
            found.append(PairAgreement((first, second), len(pairs), observed, kappa))
    return found


def find_majority(answers: Sequence[str]) -> str | None:
    """The answer that more raters gave than any other; None if there is none."""
    ranked = Counter(answers).most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]
