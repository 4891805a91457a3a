"""Whether two files of answers differ by more than noise."""

import math
import random
from pathlib import Path

import pytest

from s4v_core.errors import ConfigError
from s4v_core.evaluation.benchmark import Answer, Unit
from s4v_core.evaluation.comparison import add_up, compare, compare_units, find_mcnemar_p
from tests.evaluation import tiny


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(0, 0, 1), (0, 5, 0.0625), (1, 9, 22 / 1024), (5, 5, 1), (3, 0, 0.25), (10, 2, 158 / 4096)],
)
def test_mcnemar_is_the_exact_test(first: int, second: int, p: float) -> None:
    assert find_mcnemar_p(first, second) == pytest.approx(p)
    assert find_mcnemar_p(second, first) == pytest.approx(p)


def test_mcnemar_of_many_thousands_neither_overflows_nor_takes_long() -> None:
    assert find_mcnemar_p(100_000, 100_000) == pytest.approx(1, abs=0.01)
    assert find_mcnemar_p(40_000, 60_000) < 1e-100


def _units(credits: list[float], stratum: str = "") -> list[Unit]:
    return [Unit(str(n), credit, 1.0, stratum) for n, credit in enumerate(credits)]


def test_the_interval_is_about_that_of_the_normal_distribution() -> None:
    chance = random.Random(3)
    first = [float(chance.random() < 0.6) for _ in range(2_000)]
    second = [float(chance.random() < 0.7) for _ in range(2_000)]
    sides = _units(first), _units(second)
    found = compare_units(*sides, *sides)
    changes = [b - a for a, b in zip(first, second, strict=True)]
    mean = sum(changes) / 2_000
    deviation = math.sqrt(sum((one - mean) ** 2 for one in changes) / 2_000)
    half = 100 * 1.96 * deviation / math.sqrt(2_000)
    assert found.low == pytest.approx(100 * mean - half, abs=0.3)
    assert found.high == pytest.approx(100 * mean + half, abs=0.3)
    assert not found.is_noise
    assert "beyond noise: b is better" in found.as_text("SEED", ("a", "b"))


def test_a_pair_of_models_that_differ_by_chance_is_called_noise() -> None:
    chance = random.Random(4)
    first, second = ([float(chance.random() < 0.6) for _ in range(300)] for _ in range(2))
    sides = _units(first), _units(second)
    found = compare_units(*sides, *sides)
    assert found.is_noise
    assert "within noise" in found.as_text("SEED", ("a", "b"))


def test_strata_add_up_and_keep_their_sizes() -> None:
    units = [*_units([1, 0], "x"), *_units([2, 2, 0.5], "y")]
    assert add_up(units) == pytest.approx(50 + 150)
    assert add_up([Unit("1", 8, 10), Unit("2", 4, 6)]) == pytest.approx(75)


def _pair(name: str, folder: Path, texts: str, others: str) -> tuple[tiny.Score, tiny.Score]:
    questions = tiny.read(name, folder)
    found = [
        tiny.score(name, questions, [
            tiny.answer(one, text) for one, text in zip(questions, side.split("|"), strict=True)
        ])
        for side in (texts, others)
    ]  # fmt: skip
    return found[0], found[1]


def test_mme_compares_perception_and_cognition_by_image(tmp_path: Path) -> None:
    texts = "Yes|No|Yes|No|Yes|No|Yes|No"
    found = compare(*_pair("mme", tmp_path, texts, texts.replace("Yes|No|Yes", "No|No|Yes", 1)))
    assert list(found) == ["perception", "cognition"]
    assert (found["perception"].first, found["perception"].second) == (400, 400)
    assert (found["cognition"].first, found["cognition"].second) == (200, 50)
    assert (found["cognition"].only_first, found["cognition"].p_value) == (1, 1)
    assert "score alike" in found["perception"].as_text("MME", ("a", "b"))


@pytest.mark.parametrize(
    "name", ["seed", "scienceqa", "mmbench", "vqav2", "pope", "llava-w", "stablellava"]
)
def test_what_is_compared_is_the_figure_of_that_name(name: str, tmp_path: Path) -> None:
    questions = tiny.read(name, tmp_path)
    gold = [tiny.answer(one, tiny.find_gold(name, one)) for one in questions]
    scores = tiny.score(name, questions, gold), tiny.score(name, questions, gold[1:])
    for figure, found in compare(*scores).items():
        assert found.first == pytest.approx(scores[0].official[figure].value, abs=0.05)
        assert found.second == pytest.approx(scores[1].official[figure].value, abs=0.05)


def test_answers_that_nobody_judged_are_not_compared(tmp_path: Path) -> None:
    questions = tiny.read("mm-vet", tmp_path)
    score = tiny.score("mm-vet", questions, [Answer("v1_0", "five")])
    with pytest.raises(ConfigError, match="not judged"):
        compare(score, score)


def test_grades_of_different_judges_are_not_compared(tmp_path: Path) -> None:
    questions = tiny.read("mm-vet", tmp_path)
    scores = [
        tiny.score("mm-vet", questions, [Answer("v1_0", "1", row={"model": judge, "content": "1"})])
        for judge in (["gpt-4-0613"], ["gpt-4o"])
    ]
    with pytest.raises(ConfigError, match=r"different judges \(gpt-4-0613 and gpt-4o\)"):
        compare(*scores)
