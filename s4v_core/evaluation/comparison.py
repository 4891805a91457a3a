"""Two files of answers to the same questions: how far apart they are, and whether that is noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s4v_core.errors import ConfigError
from s4v_core.evaluation.benchmark import Unit
from s4v_core.evaluation.means import list_units
from s4v_core.evaluation.scoring import Score

RESAMPLES = 2_000
_SEED = 0
_INTERVAL = (2.5, 97.5)
_DRAWS_AT_ONCE = 4_000_000
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two scores on the same questions.

    Attributes:
        first, second: What the two score by the figure that is compared.
        low, high: 95 % interval of second - first, by drawing units again in pairs.
        only_first: Units that only the first has wholly right; `only_second` likewise.
        p_value: McNemar's, exact and two-sided, on those; None if units have no right and wrong.
    """

    first: float
    second: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float | None
    n: int

    @property
    def is_same(self) -> bool:
        return self.first == self.second and not self.only_first + self.only_second

    @property
    def is_noise(self) -> bool:
        return self.low <= 0 <= self.high

    def as_text(self, title: str, names: tuple[str, str]) -> str:
        """The verdict in words."""
        change = self.second - self.first
        lines = [
            f"{title}: {names[0]} {self.first:.2f}, {names[1]} {self.second:.2f}, "
            f"a difference of {change:+.2f}",
            f"  95 % interval {self.low:+.2f} to {self.high:+.2f} "
            f"({RESAMPLES:,} paired draws of {self.n:,})",
        ]
        if self.p_value is not None:
            lines.append(
                f"  only {names[0]} is right on {self.only_first:,}, only {names[1]} on "
                f"{self.only_second:,}: McNemar's p = {self.p_value:.3g}"
            )
        return "\n".join([*lines, f"  {self._judge(names)}"])

    def _judge(self, names: tuple[str, str]) -> str:
        if self.is_same:
            return "the two score alike on every question"
        if self.is_noise:
            return "within noise: these answers do not show that one model is better"
        better = names[self.second > self.first]
        if self.p_value is not None and self.p_value > _SIGNIFICANT:
            return f"on the border of noise: the interval favours {better}, McNemar's test does not"
        return f"beyond noise: {better} is better"


def compare(first: Score, second: Score) -> dict[str, Comparison]:
    """Compare two scores of the same questions, by the name of each figure that can be.

    Raises:
        ConfigError: One of them has no figures, or other judges graded them.
    """
    for score in (first, second):
        if score.unscored:
            raise ConfigError(f"{score.answers}: {score.unscored}; there is nothing to compare")
    if first.judges != second.judges:
        judges = " and ".join(", ".join(one.judges) or "no name" for one in (first, second))
        raise ConfigError(f"found grades of different judges ({judges}), which do not compare")
    marked = first.matched.marked, second.matched.marked
    units = [first.benchmark.units(one) for one in marked]
    questions = [list_units(one)["accuracy"] for one in marked]
    found = {}
    for name in units[0]:
        sides = units[0][name], units[1][name]
        # MME's images have more than right and wrong, and so its questions are counted.
        groups = {unit.key for unit in sides[0]}
        asked = [
            [unit for unit, each in zip(part, one, strict=True) if each.question.group in groups]
            for part, one in zip(questions, marked, strict=True)
        ]
        is_plain = all(_has_sides(side) for side in sides) or not asked[0]
        found[name] = compare_units(*sides, *(sides if is_plain else asked))
    return found


def compare_units(
    first: Sequence[Unit],
    second: Sequence[Unit],
    first_sides: Sequence[Unit],
    second_sides: Sequence[Unit],
) -> Comparison:
    """Compare two lists of the same units, in the same order; who is right is counted on
    `first_sides` and `second_sides`."""
    assert [one.key for one in first] == [one.key for one in second], "units of other questions"
    drawn = _draw_scores([first, second])
    low, high = np.percentile(drawn[1] - drawn[0], _INTERVAL)
    pairs = list(zip(first_sides, second_sides, strict=True))
    only_first = sum(a.credit > b.credit for a, b in pairs)
    only_second = sum(b.credit > a.credit for a, b in pairs)
    has_sides = _has_sides(first_sides) and _has_sides(second_sides)
    return Comparison(
        first=add_up(first),
        second=add_up(second),
        low=float(low),
        high=float(high),
        only_first=only_first,
        only_second=only_second,
        p_value=find_mcnemar_p(only_first, only_second) if has_sides else None,
        n=len(first),
    )


def _has_sides(units: Sequence[Unit]) -> bool:
    """Whether every unit is either right or wrong."""
    return all(one.against == 1.0 and one.credit in (0, 1) for one in units)


def add_up(units: Sequence[Unit]) -> float:
    """The score that units add up to: the sum over strata of 100 * credits / credits to be had."""
    totals: dict[str, list[float]] = {}
    for unit in units:
        total = totals.setdefault(unit.stratum, [0.0, 0.0])
        total[0] += unit.credit
        total[1] += unit.against
    return sum(100 * credit / against for credit, against in totals.values() if against)


def find_interval(units: Sequence[Unit]) -> tuple[float, float]:
    """95 % interval of the score that units add up to, by drawing them again."""
    low, high = np.percentile(_draw_scores([units])[0], _INTERVAL)
    return float(low), float(high)


def compare_apart(first: Sequence[Unit], second: Sequence[Unit]) -> Comparison:
    """Compare two lists of units that have no counterparts in each other."""
    drawn = _draw_scores([first])[0], _draw_scores([second], _SEED + 1)[0]
    low, high = np.percentile(drawn[1] - drawn[0], _INTERVAL)
    scores = add_up(first), add_up(second)
    return Comparison(*scores, float(low), float(high), 0, 0, None, min(len(first), len(second)))


def _draw_scores(sides: Sequence[Sequence[Unit]], seed: int = _SEED) -> np.ndarray:
    """The score of each side in each resample; sides are drawn alike, a stratum keeps its size."""
    chance = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for number, unit in enumerate(sides[0]):
        places.setdefault(unit.stratum, []).append(number)
    credits = np.array([[one.credit for one in units] for units in sides])
    against = np.array([[one.against for one in units] for units in sides])
    draws = np.zeros((len(sides), RESAMPLES))
    for at in places.values():
        draws += _draw_stratum(chance, credits[:, at], against[:, at])
    return draws


def _draw_stratum(
    chance: np.random.Generator, credits: np.ndarray, against: np.ndarray
) -> np.ndarray:
    size = credits.shape[1]
    step = max(1, _DRAWS_AT_ONCE // size)
    parts = []
    for start in range(0, RESAMPLES, step):
        drawn = chance.integers(0, size, (min(step, RESAMPLES - start), size))
        scores = [
            100 * credit[drawn].sum(1) / np.maximum(total[drawn].sum(1), 1e-12)
            for credit, total in zip(credits, against, strict=True)
        ]
        parts.append(np.array(scores))
    return np.concatenate(parts, axis=1)


def find_mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value: how often a fair coin splits the disagreements at least so
    unevenly."""
    n, few = only_first + only_second, min(only_first, only_second)
    if not n:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(few + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))
