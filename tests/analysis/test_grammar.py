from pathlib import Path

import pytest

from s4v_core.analysis import grammar
from s4v_core.analysis.grammar import (
    find_class,
    find_noun_lemma,
    find_root_pair,
    find_verb_lemma,
    parse_sentences,
)

LETTERS = {
    "nouns": "N", "adjectives": "J", "adverbs": "R", "verbs": "V", "numerals": "C",
    "prepositions": "P", None: "-",
}  # fmt: skip


def read_hand_tagged() -> list[tuple[str, str]]:
    text = (Path(__file__).parent / "hand_tagged.txt").read_text()
    pairs = [token.rpartition("/") for token in text.split()]
    return [(word, letter) for word, _, letter in pairs]


def test_at_least_95_of_100_words_tagged_by_hand_are_right() -> None:
    wanted = read_hand_tagged()
    text = " ".join(word for word, _ in wanted)
    found = [token for sentence in parse_sentences(text) for token in sentence]
    assert [token.text for token in found] == [word for word, _ in wanted]
    words = [pair for pair in zip(wanted, found, strict=True) if pair[1].is_word]
    assert len(words) >= 200
    wrong = [
        (word, letter, token.tag)
        for (word, letter), token in words
        if LETTERS[find_class(token.tag)] != letter
    ]
    assert len(wrong) <= 0.05 * len(words), wrong


@pytest.mark.parametrize(
    ("sentence", "pair"),
    [
        ("The dog sits on a chair.", ("sit", "dog")),
        ("Two people are riding horses.", ("ride", "people")),
        ("The two old men have been standing there.", ("stand", "man")),
        ("The image shows a red bus.", ("show", "image")),
        ("A coffee table stands near the window.", ("stand", "table")),
        ("In the background, the trees are tall.", ("be", "background")),
        ("Sitting on the bench is a man.", None),
        ("A red car on the street.", None),
        ("Beautiful!", None),
    ],
)
def test_the_root_pair_is_a_verb_and_the_noun_in_front_of_it(
    sentence: str, pair: tuple[str, str] | None
) -> None:
    [tokens] = parse_sentences(sentence)
    assert find_root_pair(tokens) == pair


@pytest.mark.parametrize(
    ("verb", "lemma"),
    [
        ("sitting", "sit"), ("playing", "play"), ("riding", "ride"), ("running", "run"),
        ("lying", "lie"), ("was", "be"), ("held", "hold"), ("Wearing", "wear"), ("has", "have"),
        ("making", "make"), ("displayed", "display"), ("stands", "stand"),
    ],
)  # fmt: skip
def test_verbs_have_their_infinitives(verb: str, lemma: str) -> None:
    assert find_verb_lemma(verb) == lemma


def test_nouns_have_their_singulars() -> None:
    words = ["children", "buses", "ceiling", "building", "women", "Knives"]
    assert [find_noun_lemma(word) for word in words] == [
        "child", "bus", "ceiling", "building", "woman", "knife"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One dog. Two cats!\n\nThree birds?", 3),
        ("No mark at the end", 1),
        ("", 0),
        (" \n ... !", 0),
        ("A sign says 3/4 off, and/or more.", 1),
        ("猫が 座っている。 Ünïcode \U0001f600 text.", 1),
        ("&slash; & <b>", 1),
    ],
)
def test_any_text_can_be_parsed(text: str, sentences: int) -> None:
    found = parse_sentences(text)
    assert len(found) == sentences
    assert all(token.text and token.tag for sentence in found for token in sentence)


def test_a_slash_stays_in_its_word() -> None:
    [tokens] = parse_sentences("To the left/right stands a house.")
    assert "left/right" in [token.text for token in tokens]


def test_without_the_packages_the_sentence_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    from s4v_core.errors import ConfigError

    grammar._load_parser.cache_clear()
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    with pytest.raises(ConfigError, match=r"pip install 's4v\[analysis\]'"):
        parse_sentences("A dog.")
    grammar._load_parser.cache_clear()
