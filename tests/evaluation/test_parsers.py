"""The answer that each rule reads in a reply: tables of the tools, and real forms."""

import pytest

from s4v_core.evaluation.parsers import (
    parse_letter,
    parse_mme,
    parse_mmstar,
    parse_pope,
    parse_science_qa,
    parse_seed,
    parse_seed_first,
    parse_yes_no,
)

OPTIONS = {"A": "cat", "B": "a running dog", "C": "two birds", "D": "none of these"}

YES_NO = [  # reply, official, lenient
    ("Yes", "yes", "yes"),
    (" yes", "yes", "yes"),
    ("yes.", "yes", "yes"),
    ("No, it is not", "no", "no"),
    ("The answer is yes", None, "yes"),
    ("Answer: yes", None, "yes"),
    ("I know", None, None),
    ("", None, None),
    ("not sure", "no", None),
    ("None", "no", None),
    ("North", "no", None),
    ("Nope", "no", None),
    ("yes and no", "yes", None),
    ("Y", None, None),
    ("Noodles", "no", None),
]


@pytest.mark.parametrize(("reply", "official", "lenient"), YES_NO)
def test_yes_or_no_is_read_as_in_the_table(
    reply: str, official: str | None, lenient: str | None
) -> None:
    assert parse_mme(reply) == official
    assert parse_yes_no(reply) == lenient


MORE_YES = """
    YES|yes|Yes.|Yes!|Yes, it is.|yes, there is a dog|Yes - a red one|**Yes**|"Yes"|'yes'|(yes)
    |yes\n|\tyes|Yes\nBecause the sign says so.|Yes,|YES!!|Yes; two of them|yes it does
    |Yes, the code is python.|Correct, yes.|Sure, yes|Answer: Yes.|A: yes|The correct answer is Yes
    |It is true: yes|oh yes|yes🙂
    |I would say yes.|Well, yes, clearly|# Yes|`yes`|<yes>
"""
MORE_NO = """
    NO|no|No.|No!|No, it isn't.|no, there is none here|No - a blue one|**No**|"No"|'no'|(no)|no\n
    |\tno|No\nBecause the sign does not.|No,|NO!!|No; three of them|no it does not|No, this is c++.
    |Sadly no.|Sorry, no|Answer: No.|A: no|The correct answer is No|It is false: no|oh no|no🙁
    |I would say no.|Well, no, not here|# No|`no`|<no>
"""


@pytest.mark.parametrize("reply", [one.lstrip(" ") for one in MORE_YES.split("|")])
def test_forms_of_yes_are_yes_to_the_lenient_parser(reply: str) -> None:
    assert parse_yes_no(reply) == "yes"


@pytest.mark.parametrize("reply", [one.lstrip(" ") for one in MORE_NO.split("|")])
def test_forms_of_no_are_no_to_the_lenient_parser(reply: str) -> None:
    assert parse_yes_no(reply) == "no"


LETTERS = [  # reply, SEED, SEED -t, ScienceQA, lenient
    ("A", "A", "A", "A", "A"),
    ("A.", None, "A", None, "A"),
    ("A. cat", None, "A", "A", "A"),
    ("(A)", None, None, None, "A"),
    ("The answer is A.", None, None, "A", "A"),
    ("Answer: A", None, "A", None, "A"),
    ("a", None, None, None, "A"),
    ("A cat is shown in it", None, "A", None, "A"),
    ("cat", None, None, None, "A"),
    ("It is a cat", None, None, None, "A"),
    ("A or B", None, "A", None, None),
    ("**B**", None, None, None, "B"),
    ("", None, None, None, None),
]


@pytest.mark.parametrize(("reply", "seed", "first", "science", "lenient"), LETTERS)
def test_a_letter_is_read_as_in_the_table(
    reply: str, seed: str | None, first: str | None, science: str | None, lenient: str | None
) -> None:
    assert (parse_seed(reply) if parse_seed(reply) in tuple("ABCD") else None) == seed
    assert parse_seed_first(reply) == first
    assert parse_science_qa(reply, OPTIONS) == science
    assert parse_letter(reply, OPTIONS) == lenient


FORMS = [
    "X", " X ", "X\n", "X)", "(X)", "X:", "X. ", "x", "x.", "(x)", "x)", "*X*", "`X`", "# X",
    "Answer: X", "answer: X.", "ANSWER: X", "Answer is X", "The answer is X",
    "The answer is (X).", "The answer is: X", "The correct answer is X.",
    "The correct option is X", "My answer is X because it says so.", "Option: X",
    "**Answer: X**", "Answer:\nX", "答案是X", "答案：X", "X、", "X. Because of the picture.",  # noqa: RUF001
]  # fmt: skip
MORE_LETTERS = [
    *(
        (form.replace("X", letter).replace("x", letter.lower()), letter)
        for letter in "ABCD"
        for form in FORMS
    ),
    ("B is the right one.", "B"),
    ("C because there are two of them", "C"),
    ("D, as I see it", "D"),
    ("two birds", "C"),
    ("Two birds.", "C"),
    ("There are two birds in the tree", "C"),
    ("a running dog", "B"),
    ("It shows a running dog!", "B"),
    ("None of these", "D"),
    ("The answer is a cat", "A"),
    ("The answer is a running dog", "B"),
    ("A running dog", "B"),
    ("Answer: A running dog", "B"),
    ("A.cat", "A"),
    ("B) a running dog", "B"),
]
NO_LETTERS = """
    E|E.|(E)|The answer is E|F. fish|5|?|yes|I cannot tell|None|A and B|A, B|A/B|B & C|(A) or (B)
    |A cat or two birds|cat and a running dog|The answer is A. The answer is B.
    |A. cat. The answer is B|category|concatenate|dogs|a bird|birds|U.S. flag|😀|乙|ب|---|...|()
    |[]|I|I see something|At night|Bee|CD|ABCD|An owl|Apparently|Between the two|Don't know|B's
    |answer|The answer is unclear|It's neither|Answer: none|Z|ABC|0|1.|(1)|Answer: 2|<image>|null
    |nan|unknown|both|all|Maybe
"""


@pytest.mark.parametrize(("reply", "letter"), MORE_LETTERS)
def test_forms_of_a_letter_are_read_by_the_lenient_parser(reply: str, letter: str) -> None:
    assert parse_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize("reply", [one.strip() for one in NO_LETTERS.split("|")])
def test_a_reply_that_chooses_nothing_or_two_things_is_unparsed(reply: str) -> None:
    assert parse_letter(reply, OPTIONS) is None


def test_a_letter_beyond_the_options_of_its_question_is_none() -> None:
    two = {"A": "yes", "B": "no"}
    assert parse_letter("C", two) is None
    assert parse_science_qa("C", two) is None
    assert parse_science_qa("The answer is E.", OPTIONS) is None


def test_science_qa_needs_a_character_after_the_letter_of_its_sentence() -> None:
    assert parse_science_qa("The answer is A", OPTIONS) is None
    assert parse_science_qa("The answer is A!", OPTIONS) == "A"
    assert parse_science_qa("The answer is A. The answer is B.", OPTIONS) is None


def test_the_option_that_contains_the_others_is_meant() -> None:
    options = {"A": "dog", "B": "hot dog", "C": "cat"}
    assert parse_letter("It is a hot dog", options) == "B"
    assert parse_letter("It is a dog and a cat", options) is None
    assert parse_letter("dog", {"A": "dog", "B": "Dog"}) is None


POPE = [
    ("Yes", "yes"), ("No", "no"), ("no", "no"), ("No, there is not.", "no"), ("", "yes"),
    ("There is not a dog.", "no"), ("NO", "yes"), ("It is. No.", "yes"), ("maybe", "yes"),
    ("no.", "no"), ("I do not see one", "no"), ("nothing", "yes"), ("There is no, dog", "no"),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "said"), POPE)
def test_pope_reads_no_in_the_first_sentence_and_else_yes(reply: str, said: str) -> None:
    assert parse_pope(reply) == said


MMSTAR = [
    ("A", "A"), ("b", "B"), ("(C) cat", "C"), ("Option D", "D"), ("The answer is B.", "B"),
    ("A. cat", "A"), ("", None), ("  c", "C"), ("42", None), ("(", None), ("Both", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "letter"), MMSTAR)
def test_mmstar_reads_the_letter_at_four_places(reply: str, letter: str | None) -> None:
    assert parse_mmstar(reply) == letter


HOSTILE = [
    "",
    "\x00",
    "a" * 100_000,
    "A " * 50_000,
    "(" * 50_000,
    "答案" * 9_000,
    "ب",
    "🙂",
    "\u202eA",
]


@pytest.mark.parametrize("reply", HOSTILE, ids=range(len(HOSTILE)))
def test_every_parser_takes_any_text(reply: str) -> None:
    for parse in (parse_mme, parse_yes_no, parse_pope, parse_seed_first, parse_mmstar):
        parse(reply)
    assert parse_letter(reply, OPTIONS) in (None, *OPTIONS)
    assert parse_science_qa(reply, OPTIONS) in (None, *OPTIONS)
