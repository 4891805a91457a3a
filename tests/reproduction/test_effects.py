import math

import numpy as np
import pytest

from s4v_core.reproduction.effects import (
    Array,
    compare_arms,
    count_needed_seeds,
    find_interval,
    find_least_difference,
)
from s4v_core.reproduction.exactness import prefer


def _draw(seed: int, gain: float, seeds: int = 5, questions: int = 300) -> tuple[Array, Array]:
    """Right and wrong answers of two arms; the first one has `gain` more points."""
    chance = np.random.default_rng(seed)
    hard = chance.uniform(0, 1, questions)
    luck = chance.normal(0, 0.01, (2, seeds, 1))
    drawn = chance.uniform(0, 1, (2, seeds, questions))
    shares = hard + luck + np.array([gain / 100, 0.0]).reshape(2, 1, 1)
    first, second = 100.0 * (drawn < shares)
    return first, second


def test_a_real_difference_is_found_and_its_opposite_is_reversed() -> None:
    first, second = _draw(0, gain=15)
    effect = compare_arms(first, second)
    assert effect.mean == pytest.approx(first.mean() - second.mean())
    assert effect.low < effect.mean < effect.high
    assert effect.is_shown
    assert effect.p_questions < 0.01
    assert effect.judge() == "held"
    opposite = compare_arms(second, first)
    assert opposite.is_reversed
    assert opposite.p_questions == pytest.approx(effect.p_questions)


def test_arms_that_are_alike_differ_in_no_more_than_one_of_twenty_studies() -> None:
    found = [compare_arms(*_draw(seed, gain=0)) for seed in range(20)]
    assert sum(one.is_shown or one.is_reversed for one in found) <= 3
    # The intervals cover zero where nothing differs.
    assert sum(one.low <= 0 <= one.high for one in found) >= 17


def test_seeds_that_differ_more_than_arms_show_nothing() -> None:
    chance = np.random.default_rng(3)
    second = 100.0 * (chance.uniform(0, 1, (5, 400)) < 0.5)
    shift = np.array([30.0, -30.0, 28.0, -20.0, 10.0]).reshape(5, 1)
    effect = compare_arms(second + shift, second)
    assert not effect.is_shown
    assert effect.low < 0 < effect.high


def test_four_seeds_are_too_few_for_a_verdict() -> None:
    effect = compare_arms(*_draw(0, gain=15, seeds=4))
    assert effect.is_shown
    assert effect.judge() == "no verdict: 4 of 5 seeds"


def test_a_test_over_seeds_is_exact() -> None:
    second = np.zeros((5, 10))
    effect = compare_arms(second + 1.0, second)
    assert effect.p_seeds == pytest.approx(2 / 2**5)
    assert compare_arms(second, second).p_seeds == 1.0
    assert compare_arms(second, second).judge() == "not shown"


def test_the_same_points_always_give_the_same_effect() -> None:
    assert compare_arms(*_draw(1, 5)) == compare_arms(*_draw(1, 5))


def test_an_interval_narrows_with_seeds() -> None:
    mean, low, high = find_interval([50.0, 52.0, 54.0])
    assert mean == 52.0
    assert 50.0 <= low < mean < high <= 54.0
    _, low_many, high_many = find_interval([50.0, 52.0, 54.0] * 8)
    assert high_many - low_many < high - low
    assert find_interval([7.0]) == (7.0, 7.0, 7.0)


def test_the_seeds_that_are_told_find_the_difference_in_four_of_five_studies() -> None:
    needed = count_needed_seeds(difference=3.0, spread=4.0)
    chance = np.random.default_rng(0)
    drawn = chance.normal(3.0, 4.0, (2000, needed))
    t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / math.sqrt(needed))
    critical = 2.12  # Student's t of 16 degrees of freedom, 5 % two-sided
    assert needed == 16
    assert 0.74 < (t > critical).mean() < 0.9
    assert find_least_difference(needed, 4.0) == pytest.approx(3.0, rel=0.05)


def test_the_caption_with_more_right_and_fewer_wrong_sentences_is_preferred() -> None:
    truth = {"a": "One. Two.", "b": "One. Two.", "c": "One.", "d": "One."}
    other = {"a": "One. Two.", "b": "One. Three.", "c": "One. Four."}
    found = prefer(truth, truth, other)
    assert (found.first, found.second, found.comparable) == (2, 0, 1)
    assert (found.right, found.said, found.true) == (4, 6, 5)
    assert prefer(truth, other, truth).second == 2
