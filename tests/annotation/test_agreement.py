"""Agreement and intervals against references that are computed here another way."""

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations, permutations, product

import pytest
from scipy.stats import binomtest

from s4v_core.annotation.agreement import (
    compare_raters,
    draw_share_intervals,
    find_cohen_kappa,
    find_fleiss_kappa,
    find_majority,
    find_wilson_interval,
)

ANSWERS = ("a", "b", "comparable")


def draw_ratings(
    seed: int, items: int, raters: int, skip: float = 0.0
) -> dict[int, dict[str, str]]:
    chance = random.Random(seed)
    leaning = [chance.choices(ANSWERS, (3, 2, 1))[0] for _ in range(items)]
    return {
        item: {
            f"r{rater}": chance.choice((leaning[item], *ANSWERS))
            for rater in range(raters)
            if chance.random() >= skip
        }
        for item in range(items)
    }


def find_fleiss_by_pairs(ratings: dict[int, dict[str, str]]) -> float:
    """From the definition: pairs of raters of an item that agree, against pairs of all answers
    drawn with replacement."""
    rated = [list(one.values()) for one in ratings.values() if len(one) > 1]
    shares = []
    for answers in rated:
        pairs = list(permutations(answers, 2))
        shares.append(Fraction(sum(a == b for a, b in pairs), len(pairs)))
    every = [answer for answers in rated for answer in answers]
    drawn = list(product(every, every))
    expected = Fraction(sum(a == b for a, b in drawn), len(drawn))
    return float((sum(shares, Fraction()) / len(shares) - expected) / (1 - expected))


def find_cohen_by_pairs(pairs: list[tuple[str, str]]) -> float:
    """From the definition: agreement, against each one's answers with all of the other's."""
    observed = Fraction(sum(a == b for a, b in pairs), len(pairs))
    crossed = list(product([a for a, _ in pairs], [b for _, b in pairs]))
    expected = Fraction(sum(a == b for a, b in crossed), len(crossed))
    return float((observed - expected) / (1 - expected))


def test_the_published_example_of_fleiss_has_its_kappa() -> None:
    # Fleiss' table of 14 raters, 10 subjects and 5 categories; kappa 0.210.
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    ratings = {}
    for item, counts in enumerate(table):
        answers = [str(kind) for kind, n in enumerate(counts) for _ in range(n)]
        ratings[item] = {f"r{number}": answer for number, answer in enumerate(answers)}
    assert find_fleiss_kappa(ratings) == pytest.approx(0.210, abs=0.0005)


def test_the_published_example_of_cohen_has_its_kappa() -> None:
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert find_cohen_kappa(pairs) == pytest.approx(0.4)


@pytest.mark.parametrize("seed", range(5))
def test_kappas_are_those_of_their_definitions(seed: int) -> None:
    ratings = draw_ratings(seed, items=25, raters=4, skip=0.3)
    assert find_fleiss_kappa(ratings) == pytest.approx(find_fleiss_by_pairs(ratings))
    found = {one.raters: one for one in compare_raters(ratings)}
    for first, second in combinations([f"r{n}" for n in range(4)], 2):
        both = [(a[first], a[second]) for a in ratings.values() if first in a and second in a]
        assert found[first, second].kappa == pytest.approx(find_cohen_by_pairs(both))
        assert found[first, second].items == len(both)


def test_kappas_of_full_agreement_of_one_answer_alone_and_of_nothing() -> None:
    full = {0: {"x": "a", "y": "a"}, 1: {"x": "b", "y": "b"}}
    assert find_fleiss_kappa(full) == 1
    assert compare_raters(full)[0].kappa == 1
    alone = {0: {"x": "a", "y": "a"}, 1: {"x": "a", "y": "a"}}
    assert find_fleiss_kappa(alone) is None
    assert compare_raters(alone)[0].kappa is None
    assert find_fleiss_kappa({0: {"x": "a"}}) is None
    assert find_fleiss_kappa({}) is None
    assert compare_raters({0: {"x": "a"}, 1: {"y": "a"}}) == []
    assert find_cohen_kappa([]) is None


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10), (382, 1000), (1, 3), (57, 100)])
def test_wilson_intervals_are_those_of_scipy(count: int, total: int) -> None:
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert find_wilson_interval(count, total) == pytest.approx((expected.low, expected.high))


def test_intervals_of_no_votes_say_nothing() -> None:
    assert find_wilson_interval(0, 0) == (0, 1)
    assert draw_share_intervals({}, ANSWERS)["a"] == (0, 1)


def test_redrawn_intervals_are_those_of_independent_votes_where_votes_are_independent() -> None:
    ratings = {n: {"x": "a" if n % 5 < 2 else "b"} for n in range(400)}
    low, high = draw_share_intervals(ratings, ANSWERS)["a"]
    expected = binomtest(160, 400).proportion_ci(method="wilson")
    assert low == pytest.approx(expected.low, abs=0.01)
    assert high == pytest.approx(expected.high, abs=0.01)


def test_raters_who_copy_each_other_make_no_interval_narrower() -> None:
    alone = {n: {"x": "a" if n % 2 else "b"} for n in range(40)}
    copied = {n: {f"r{k}": one["x"] for k in range(10)} for n, one in alone.items()}
    drawn = draw_share_intervals(alone, ANSWERS), draw_share_intervals(copied, ANSWERS)
    assert drawn[0] == drawn[1]
    wilson = find_wilson_interval(200, 400)
    assert drawn[1]["a"].high - drawn[1]["a"].low > 2 * (wilson.high - wilson.low)


def test_a_majority_is_strict() -> None:
    assert find_majority(["a", "b", "a"]) == "a"
    assert find_majority(["a", "b"]) is None
    assert find_majority([]) is None
    for answers in product(ANSWERS, repeat=4):
        counts = Counter(answers)
        most = [one for one in ANSWERS if counts[one] == max(counts.values())]
        assert find_majority(answers) == (most[0] if len(most) == 1 else None)
