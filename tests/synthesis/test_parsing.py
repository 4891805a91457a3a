"""What writers answer: the right form passes as it is, and every wrong one is named."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s4v_core.synthesis.abilities import load_abilities
from s4v_core.synthesis.demo_world import list_demo_abilities
from s4v_core.synthesis.parsing import (
    LONGEST_ANSWER,
    LONGEST_PROMPT,
    Written,
    find_pair,
    find_prompt_problem,
    parse_description,
    parse_prompts,
    parse_question,
    strip_brackets,
)
from s4v_core.synthesis.writing import find_reference_words

PROMPT = "((teal teapot)), wooden table, kitchen, soft light"
ANSWER = "A teal teapot stands on a wooden table."
ALL = {**load_abilities(), **{f"demo {n}": one for n, one in list_demo_abilities().items()}}


@pytest.mark.parametrize("ability", ALL.values(), ids=ALL)
def test_every_hand_written_example_passes_the_parsers(ability) -> None:
    for example in ability.examples:
        prompts = "\n".join(example.prompts)
        assert parse_prompts(prompts, ability.images) == Written(example.prompts)
        described = parse_description(f"{prompts}\n{example.description}", example.prompts)
        assert described == Written(example.prompts, answer=example.description)
        asked = parse_question(
            f"{prompts}\n{example.question}\n{example.response}", example.prompts
        )
        assert asked == Written(example.prompts, example.question, example.response)


WRONG_PROMPTS = {
    "": "empty",
    " \n\t ": "empty",
    "teal teapot, kitchen": "no_pair",
    "((teal teapot)), ((kitchen)), table": "several_pairs",
    "((teal teapot), kitchen": "broken_brackets",
    "(teal teapot)), kitchen": "broken_brackets",
    "(((teal teapot))), kitchen": "broken_brackets",
    "(()), kitchen": "broken_brackets",
    "((teal teapot)), kitchen (large)": "broken_brackets",
    "kitchen, ((teal teapot))": "pair_not_first",
    "((teal teapot))": "not_keywords",
    "((teal teapot)),, kitchen": "not_keywords",
    "((teal teapot)), kitchen\n((red car)), road": "wrong_number_of_lines",
    "Sure! Here is a prompt:\n((teal teapot)), kitchen": "wrong_number_of_lines",
    "I'm sorry, but I cannot write that.": "refusal",
    "As an AI language model, I do not draw.": "refusal",
    "((blaue Teekanne)), auf dem Tisch, in der Küche mit einem Licht und": "other_language",
    "((синий чайник)), кухня, свет": "other_language",
    "((青いティーポット)), 台所": "other_language",
    "((teal teapot)), " + "kitchen, " * 100 + "light": "too_long",
    "((teal teapot)), kitchen" * 5000: "too_long",
    "((teal teapot)), kitchen\x00": "control_characters",
    "((red panda)), bamboo forest": "copied_example",
}


@pytest.mark.parametrize(("text", "reason"), WRONG_PROMPTS.items(), ids=range(len(WRONG_PROMPTS)))
def test_a_wrong_prompt_is_named(text: str, reason: str) -> None:
    assert parse_prompts(text, 1, ["((Red panda)),  bamboo forest"]) == reason


WRONG_DESCRIPTIONS = {
    "": "empty",
    ANSWER: "prompt_changed",
    PROMPT: "wrong_number_of_lines",
    f"{PROMPT}.\n{ANSWER}": "prompt_changed",
    f"{PROMPT.replace('teal', 'Teal')}\n{ANSWER}": "prompt_changed",
    f"{PROMPT.replace('((', '(')}\n{ANSWER}": "prompt_changed",
    f"{ANSWER}\n{PROMPT}": "prompt_changed",
    f"{PROMPT}\n{ANSWER}\n{PROMPT}\n{ANSWER}": "wrong_number_of_lines",
    f"{PROMPT}\n{ANSWER}\nI hope this helps!": "wrong_number_of_lines",
    f"{PROMPT}\nA ((teal teapot)) stands there.": "brackets_in_answer",
    f"{PROMPT}\nEine blaue Teekanne steht auf einem Tisch in der Küche und mit": "other_language",
    f"{PROMPT}\nЧайник стоит на столе.": "other_language",  # noqa: RUF001
    f"{PROMPT}\nI’m sorry, I can’t describe this.": "refusal",  # noqa: RUF001
    f"{PROMPT}\n" + "very " * 300 + "teal": "too_long",
    f"{PROMPT}\n" + "x" * 100_000: "too_long",
    f"{PROMPT}\n...": "empty",
    f"{PROMPT}\n\x07 {ANSWER}": "control_characters",
}


@pytest.mark.parametrize(
    ("text", "reason"), WRONG_DESCRIPTIONS.items(), ids=range(len(WRONG_DESCRIPTIONS))
)
def test_a_wrong_description_is_named(text: str, reason: str) -> None:
    assert parse_description(text, [PROMPT]) == reason


def test_labels_blank_lines_and_line_ends_of_any_kind_do_no_harm() -> None:
    for text in (
        f"Prompt: {PROMPT}\nDescription: {ANSWER}",
        f"{PROMPT}\r\n\r\n{ANSWER}\r\n",
        f"  {PROMPT}  \n\n\n  {ANSWER}",
    ):
        assert parse_description(text, [PROMPT]) == Written((PROMPT,), answer=ANSWER)


def test_a_record_of_two_images_repeats_both_prompts_in_order() -> None:
    one, other = "((red apple)), table", "((green apple)), table"
    assert isinstance(parse_description(f"{one}\n{other}\nThey differ.", [one, other]), Written)
    assert parse_description(f"{other}\n{one}\nThey differ.", [one, other]) == "prompt_changed"
    assert parse_prompts(f"{one}\n{one}", 2) == "repeated_prompt"
    assert parse_prompts(one, 2) == "wrong_number_of_lines"


def test_a_question_must_be_one() -> None:
    assert parse_question(f"{PROMPT}\nIt is teal.\nTeal.", [PROMPT]) == "no_question"
    assert parse_question(f"{PROMPT}\nWhat color is it?", [PROMPT]) == "wrong_number_of_lines"


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        ("What color is the teapot?", "The teapot is teal.", ["teal"]),
        ("Is the teapot teal?", "Yes, it is teal.", ["yes"]),
        ("Is the teapot teal or red?", "The teapot is teal.", ["teal", "teapot"]),
        ("What is on the table?", "A teal teapot.", ["teal", "teapot"]),
        ("What is on the table?", "Something blue.", []),
    ],
)
def test_reference_words_are_those_that_the_question_does_not_give_away(
    question: str, answer: str, words: list[str]
) -> None:
    assert find_reference_words(Written((PROMPT,), question, answer)) == words


WORDS = st.text(string.ascii_letters + " -'", min_size=1, max_size=30).map(
    lambda text: " ".join(text.split())
)
KEYWORDS = st.lists(WORDS.filter(bool), min_size=1, max_size=8)
ANYTHING = st.text(max_size=300)


@given(WORDS.filter(lambda text: any(one.isalpha() for one in text)), KEYWORDS)
def test_any_well_formed_prompt_passes_and_keeps_its_words(pair: str, others: list[str]) -> None:
    prompt = ", ".join([f"(({pair}))", *others])
    assert find_prompt_problem(prompt) is None
    assert find_pair(prompt) == pair
    assert strip_brackets(prompt) == ", ".join([pair, *others])


@given(ANYTHING)
def test_no_text_breaks_a_parser_and_what_passes_is_well_formed(text: str) -> None:
    found = parse_prompts(text, 1)
    if isinstance(found, Written):
        (prompt,) = found.prompts
        assert prompt.startswith("((")
        assert prompt.count("(") == prompt.count(")") == 2
        assert "," in prompt
        assert len(prompt) <= LONGEST_PROMPT
        assert "\n" not in prompt
    for parse in (parse_description, parse_question):
        assert isinstance(parse(text, [PROMPT]), str)


@given(ANYTHING, st.integers(0, len(PROMPT)))
def test_a_prompt_that_was_changed_anywhere_never_passes(text: str, at: int) -> None:
    changed = PROMPT[:at] + text + PROMPT[at:]
    found = parse_description(f"{changed}\n{ANSWER}", [PROMPT])
    if isinstance(found, Written):  # the text was blank, a label, or a line of its own
        assert found.prompts == (PROMPT,)
        assert found.answer == ANSWER


@given(ANYTHING)
def test_an_accepted_answer_stands_in_one_line_behind_the_exact_prompt(text: str) -> None:
    found = parse_description(f"{PROMPT}\n{text}", [PROMPT])
    if isinstance(found, Written):
        assert "\n" not in found.answer
        assert found.answer in text
        assert len(found.answer) <= LONGEST_ANSWER
        assert "((" not in found.answer
