"""The normalisers of VQA, and the accuracy against several people."""

import pytest

from s4v_core.evaluation.vqa_words import (
    leave_one_out,
    normalise_upload,
    normalise_words,
    score_official,
    score_upload,
)

UPLOADS = [
    ("Yes", "yes"), ("yes.", "yes"), ("  Two ", "2"), ("none", "0"), ("a dog", "dog"),
    ("The cat", "cat"), ("an  apple", "apple"), ("dont", "don't"), ("Isnt", "isn't"),
    ("man's", "man 's"), ("black-and-white", "black and white"), ("black - white", "black  white"),
    ("1,000", "1000"), ("5.", "5"), ("2.5", "2.5"), ("10:30", "10:30"), ("what?", "what"),
    ("red, white", "red white"), ("t/shirt", "t shirt"), ("(left)", "left"), ("", ""),
    ("the", ""), ("couldntve", "couldntve"), ("couldnt've", "couldn't've"),
    ("wouldn'tve", "wouldn't've"), ("twas", "'twas"), ("oclock", "o'clock"), ("ten", "10"),
    ("eleven", "eleven"), ("@home", "home"), ("No!", "no"), ("y'allll", "y'all'll"),
    ("yall'd've", "y'all'd've"), ("somebody'd", "somebodyd"), ("im", "im"), ("shes", "shes"),
    ("line\nbreak", "line break"), ("A\tB", "b"), ("U.S.", "us"), ("3.", "3"),
    ("It is red.", "it is red"), ("Unanswerable", "unanswerable"), ("100%", "100%"),
    ("I don't know", "i don't know"), ("cant tell", "can't tell"), ("$5.99", "$5.99"),
    ("#1", "#1"), ("50's", "50 's"), ("t-shirt", "t shirt"), ("Coca-Cola", "coca cola"),
    ("Mr. Smith", "mr smith"), ("7up", "7up"), ("7-up", "7 up"), ("3:45 pm", "3:45 pm"),
    ("12/25/2013", "12 25 2013"), ("a man and a woman", "man and woman"), ("Zero", "0"),
    ("yes, it is", "yes it is"), ("2 or 3", "2 or 3"), ("N/A", "n"), ('"stop"', "stop"),
    ("it's", "it 's"), ("theyre", "they're"), ("AT&T", "at&t"), ("left; right", "left right"),
    ("ben & jerry's", "ben & jerry 's"), ("1,000,000", "1000000"), ("-5", "5"), ("4x4", "4x4"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "normal"), UPLOADS)
def test_an_answer_is_normalised_as_before_an_upload(text: str, normal: str) -> None:
    assert normalise_upload(text).split() == normal.split()


def test_at_most_32_periods_are_removed_as_in_the_original() -> None:
    assert normalise_upload("." * 40).count(".") == 8


def test_words_of_people_are_not_made_digits() -> None:
    people = ["two"] * 9 + ["2"]
    assert score_upload("two", people) < 0.5
    assert score_official("two", ["two"] * 10) == 1


def test_nothing_is_normalised_where_all_people_agree() -> None:
    assert score_official("Yes", ["yes"] * 10) == 0
    assert score_official("Yes", ["yes"] * 9 + ["no"]) == 1
    assert score_upload("Yes", ["yes"] * 10) == 1


@pytest.mark.parametrize("people", [10, 11, 5, 1])
@pytest.mark.parametrize("matches", range(6))
def test_each_person_is_left_out_in_turn(people: int, matches: int) -> None:
    if matches > people:
        return
    humans = ["yes"] * matches + [f"other {n}" for n in range(people - matches)]
    slow = [
        min(1.0, (humans[:at] + humans[at + 1 :]).count("yes") / 3) for at in range(len(humans))
    ]
    assert leave_one_out("yes", humans) == pytest.approx(sum(slow) / len(slow))


def test_nobody_agrees_with_an_answer_to_no_people() -> None:
    assert leave_one_out("yes", []) == 0


@pytest.mark.parametrize("text", ["🙂", "是", "\u202eyes", "a" * 100_000, ", " * 9_000, "\x00"])
def test_any_text_is_normalised(text: str) -> None:
    assert isinstance(normalise_upload(text), str)
    assert isinstance(normalise_words(text), str)
