"""Texts that many images share are found among many that only one has, in bounded memory."""

import hashlib
import random

from s4v_core.captioning import repetition
from s4v_core.captioning.repetition import FrequentTexts, RepeatedTexts, SharedText


def _sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_captions_and_sentences_count_images_and_not_rows() -> None:
    texts = RepeatedTexts()
    for number in range(30):
        texts.add(f"The sky above is blue. This is picture {number} of many.", _sha(number))
        texts.add(f"The sky above is blue. This is picture {number} of many.", _sha(number))
    for number in range(30, 40):
        texts.add("A caption that  fits\nany picture. Short. Short. Short.", _sha(number))
    assert texts.sentences.list_shared(3, 9) == [
        SharedText("The sky above is blue", 30),
        SharedText("A caption that fits any picture", 10),
    ]
    assert texts.captions.list_shared(3, 9) == [
        SharedText("A caption that fits any picture. Short. Short. Short.", 10)
    ]


def test_a_frequent_text_survives_more_different_ones_than_are_counted() -> None:
    texts, chance, shared = FrequentTexts(), random.Random(0), 0
    for number in range(5 * repetition._CAPACITY):
        texts.add(f"text {number}")
        if chance.random() < 0.01:
            texts.add("the same again")
            shared += 1
    assert len(texts._counts) <= repetition._CAPACITY
    [found] = texts.list_shared(100, 9)
    assert found.text == "the same again"
    assert 0.9 * shared <= found.images <= shared
