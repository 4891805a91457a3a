"""Keywords by their word forms, and the questions that training data already answers."""

import json
import re
from pathlib import Path

import pytest

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmarks.stablellava import find_leaks, names_keywords
from s4v_core.evaluation.catalogue import BENCHMARKS
from s4v_core.evaluation.lemmas import find_forms, holds_phrase, list_forms, split_words
from s4v_core.evaluation.scoring import read_questions
from tests.conftest import SHARED_DATA
from tests.evaluation import tiny

COLOURS = SHARED_DATA / "benchmarks" / "stablellava" / "color.json"

SAME = """
    cornflower cornflowers|leaf leaves|leave leaves|child children|man men|run running|run ran
    |berry berries|box boxes|tomato tomatoes|knife knives|wolf wolves|glass glasses|fly flies
    |ride riding|ride rode|dance danced|plan planned|carry carried|eat ate|was is|foot feet
    |bench benches|dish dishes|horse horses|bus buses|pepper peppers|tire tyres|gray grey
    |color coloured|swim swimming|Car cars|dog dog's|mouse mice|person people|sit sitting
"""
OTHER = """
    red bed|cat category|rose rise|flow flower|bus bust|glass glade|car cart|string sting|king kid
    |wing win|paint pain|plane plan|ice rice|ant aunt|bear beard|tiger tie|grass gras|sea seat
"""


@pytest.mark.parametrize("pair", [one.split() for one in SAME.split("|")])
def test_inflections_of_a_word_are_the_same_word(pair: list[str]) -> None:
    first, second = ([list_forms(word) for word in split_words(one)] for one in pair)
    assert holds_phrase(first, second)


@pytest.mark.parametrize("pair", [one.split() for one in OTHER.split("|")])
def test_words_that_resemble_each_other_stay_apart(pair: list[str]) -> None:
    assert not list_forms(pair[0]) & list_forms(pair[1])


NAMED = [
    ("A field of yellow cornflowers.", [["yellow", "cornflower"]], True),
    ("A cornflower that is yellow", [["yellow", "cornflower"]], True),
    ("A cornflower that is yellow", [["yellow cornflower"]], False),
    ("Yellow-cornflower", [["yellow cornflower"]], True),
    ("A yellow rose", [["yellow", "cornflower"]], False),
    ("A puppy", [["dog"], ["puppy"]], True),
    ("two DOGS run", [["dog", "running"]], True),
    ("a category", [["cat"]], False),
    ("", [["cat"]], False),
    ("polar bears on ice", [["polar bear"]], True),
    ("the bear's polar home", [["polar bear"]], False),
    ("🙂", [["smile"]], False),
]


@pytest.mark.parametrize(("reply", "keywords", "is_named"), NAMED)
def test_a_reply_names_all_keywords_of_one_alternative(
    reply: str, keywords: list[list[str]], is_named: bool
) -> None:
    assert names_keywords(reply, keywords) is is_named


@pytest.mark.skipif(not COLOURS.exists(), reason="needs ../shared/data")
def test_answers_of_the_released_data_name_their_keywords() -> None:
    rows = json.loads(COLOURS.read_text())
    asked = [re.findall(r"\(\((.*?)\)\)", row["prompt"])[0] for row in rows]
    named = sum(
        names_keywords(row["answer"], [split_words(keyword)])
        for row, keyword in zip(rows, asked, strict=True)
    )
    exact = sum(
        set(split_words(keyword)) <= set(split_words(row["answer"]))
        for row, keyword in zip(rows, asked, strict=True)
    )
    assert 100 * exact / len(rows) == pytest.approx(77.0, abs=0.5)
    assert 100 * named / len(rows) > 95.81  # what an optional s or es gives


def test_the_score_is_the_mean_of_the_abilities(tmp_path: Path) -> None:
    questions = tiny.read("stablellava", tmp_path)
    texts = ["two dogs", "a cat", "It is red", "red"]
    answers = [tiny.answer(one, text) for one, text in zip(questions, texts, strict=True)]
    score = tiny.score("stablellava", questions, answers)
    found = {name: figure.value for name, figure in score.official.items()}
    assert found["mean of abilities"] == pytest.approx((100 / 3 + 100) / 2)
    assert (found["accuracy"], found["ability: animal"]) == (50, pytest.approx(100 / 3))
    assert (found["source: real"], found["animal generated"]) == (50, 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ability": "colour"}, "found ability 'colour', allowed animal"),
        ({"source": "drawn"}, "found source 'drawn', allowed real, generated"),
        ({"keywords": ["dog"]}, "a list of lists of words"),
        ({"keywords": []}, "a list of lists of words"),
        ({"keywords": [["?"]]}, "a list of lists of words"),
        ({"question_id": None, "keywords": None}, "record 1: expected question_id"),
    ],
)
def test_a_record_of_another_layout_is_refused(
    change: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    folder = tiny.make_stablellava(tmp_path)
    row = json.loads((folder / "keywords.jsonl").read_text().splitlines()[0])
    tiny.write_lines(folder / "keywords.jsonl", [row | change])
    with pytest.raises(InputError, match=sentence):
        read_questions(BENCHMARKS["stablellava"], str(folder))


def test_questions_that_training_data_answers_are_listed(tmp_path: Path) -> None:
    questions = tiny.read("stablellava", tmp_path)
    records = [
        ("((Two-dogs)), street", "Dogs on a street"),
        ("((dog)), street", "A street"),
        ("a cat", "A dog"),
        ("((Red-car)), a dog", "A red car and its dog"),
    ]
    leaks = find_leaks(questions, records)
    assert leaks == {"1": [0, 3], "4": [3]}


def test_any_text_has_forms() -> None:
    for text in ("", "\x00", "是", "s", "es", "ing", "ed", "'s", "a" * 100_000, "-" * 100_000):
        assert isinstance(find_forms(text), list)
