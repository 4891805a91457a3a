"""Differences between arms over seeds and questions: intervals, tests, and the seeds they need.

All arithmetic is on plain arrays, and every draw has a fixed seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 4_000
_SEED = 0
_LEVEL = 0.05
SHOWN_BELOW = 0.01
"""A difference is shown if p over questions is below this, and its interval on one side of zero."""
FEWEST_SEEDS = 5
"""With fewer there is no verdict: what looks like an effect may be the luck of one training."""
_POWER = 0.8
_MOST_EXACT = 14
"""Most seeds whose changes of sign are all counted."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effect:
    """The difference of two arms in one figure.

    Attributes:
        mean: Mean difference over seeds, in points of the figure.
        low, high: 95 % interval; seeds and questions are both drawn again, in pairs.
        p_questions: Two-sided test by changes of sign over questions, each averaged over the seeds:
            would these models differ on other questions of the kind?
        p_seeds: Exact two-sided test by changes of sign over seeds, averaged over the questions:
            would models of other seeds differ? With n seeds it cannot be below 2 / 2^n.
        seeds: Number of seeds; `questions` likewise.
    """

    mean: float
    low: float
    high: float
    p_questions: float
    p_seeds: float
    seeds: int
    questions: int

    @property
    def is_shown(self) -> bool:
        """Whether the first arm is better, beyond the chance of questions and of seeds."""
        return self.low > 0 and self.p_questions < SHOWN_BELOW

    @property
    def is_reversed(self) -> bool:
        """Whether the second arm is better, likewise."""
        return self.high < 0 and self.p_questions < SHOWN_BELOW

    def judge(self) -> str:
        """The verdict in words."""
        if self.seeds < FEWEST_SEEDS:
            return f"no verdict: {self.seeds} of {FEWEST_SEEDS} seeds"
        if self.is_shown:
            return "held"
        return "the opposite was seen" if self.is_reversed else "not shown"


def compare_arms(first: Array, second: Array) -> Effect:
    """The difference `first` - `second`.

    Args:
        first, second: Points by seed and question; the mean of a row is the figure of a seed.
    """
    differences = first - second
    chance = np.random.default_rng(_SEED)
    seeds, questions = differences.shape
    by_question, by_seed = differences.mean(axis=0), differences.mean(axis=1)
    low, high = np.percentile(_draw_means(differences, chance), (2.5, 97.5))
    return Effect(
        float(differences.mean()),
        float(low),
        float(high),
        _test_signs(by_question, chance),
        _test_signs(by_seed, chance),
        seeds,
        questions,
    )


def _draw_means(differences: Array, chance: np.random.Generator) -> Array:
    """Means over seeds and questions that are both drawn again with replacement."""
    seeds, questions = differences.shape
    # How often each one is drawn says it all, and is much quicker than to draw them.
    of_seeds = chance.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    of_questions = chance.multinomial(questions, np.full(questions, 1 / questions), DRAWS)
    summed: Array = np.einsum("ij,ij->i", of_seeds @ differences, of_questions)
    return np.asarray(summed / (seeds * questions))


def _test_signs(values: Array, chance: np.random.Generator) -> float:
    """Two-sided p of a mean as far from zero, if every value could have either sign."""
    seen = abs(values.mean()) - 1e-12
    if len(values) <= _MOST_EXACT:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(values))))
        return float((np.abs(signs @ values / len(values)) >= seen).mean())
    signs = chance.choice((-1.0, 1.0), size=(DRAWS, len(values)))
    count = int((np.abs(signs @ values / len(values)) >= seen).sum())
    return (count + 1) / (DRAWS + 1)


def find_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of one value per seed with its 95 % interval, by drawing seeds again."""
    found = np.asarray(values, float)
    chance = np.random.default_rng(_SEED)
    drawn = found[chance.integers(0, len(found), (DRAWS, len(found)))].mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(found.mean()), float(low), float(high)


def count_needed_seeds(difference: float, spread: float) -> int:
    """Seeds with which a difference is found in 80 % of studies, at 5 % two-sided.

    Args:
        spread: Standard deviation of paired differences between seeds, in the same points.
    """
    normal = NormalDist()
    reach = normal.inv_cdf(1 - _LEVEL / 2) + normal.inv_cdf(_POWER)
    # Two seeds more, for the spread that is estimated from the same seeds (Guenther's correction).
    return max(math.ceil((reach * spread / difference) ** 2) + 2, 3)


def find_least_difference(seeds: int, spread: float) -> float:
    """The smallest difference that so many seeds find in 80 % of studies."""
    normal = NormalDist()
    reach = normal.inv_cdf(1 - _LEVEL / 2) + normal.inv_cdf(_POWER)
    return reach * spread / math.sqrt(max(seeds - 2, 1))
