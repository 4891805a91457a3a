"""Which tokens are learnt, token by token. Learnt ones stand between brackets."""

import random
from itertools import groupby

import pytest

from s4v_core import chat
from s4v_core.training.data.tokens import Encoded, Encoder
from tests.model.untrained import untrained_tokenizer

TOKENIZER = untrained_tokenizer()
IMAGE_ID = TOKENIZER.convert_tokens_to_ids(chat.IMAGE)
SYSTEM = chat.VICUNA_V1.system


def encode(
    template: chat.Template, *turns: tuple[str, str], image: int | None = 0, most: int = 999
):
    encoder = Encoder(TOKENIZER, IMAGE_ID, image_tokens=16, max_tokens=most)
    return encoder.encode(template.build_pieces(turns, () if image is None else (image,)))


def marked(encoded: Encoded) -> str:
    """The text with [learnt] parts; special tokens by their names."""
    text, before = "", False
    for token, learnt in zip(encoded.ids, encoded.learnt, strict=True):
        text += "[" if learnt and not before else "]" if before and not learnt else ""
        text += TOKENIZER.decode([token])
        before = learnt
    return text + ("]" if before else "")


@pytest.mark.parametrize(
    ("turns", "image", "expected"),
    [
        ([("Hi?", "A cat.")], 0, "USER: <image>\nHi? ASSISTANT:[ A cat.</s>]"),
        (
            [("Hi?", "A cat."), ("And?", "No.")],
            0,
            "USER: <image>\nHi? ASSISTANT:[ A cat.</s>]USER: And? ASSISTANT:[ No.</s>]",
        ),
        (
            [("Hi?", "Yes."), ("And?", "No.")],
            1,
            "USER: Hi? ASSISTANT:[ Yes.</s>]USER: <image>\nAnd? ASSISTANT:[ No.</s>]",
        ),
        ([("Hi?", "Yes.")], None, "USER: Hi? ASSISTANT:[ Yes.</s>]"),
        ([("Hi?", "")], None, "USER: Hi? ASSISTANT:[ </s>]"),
        ([("Hi?", "ASSISTANT: no")], None, "USER: Hi? ASSISTANT:[ ASSISTANT: no</s>]"),
        ([("a </s> b", "c </s> d")], None, "USER: a </s> b ASSISTANT:[ c </s> d</s>]"),
        ([("what <image>", "x")], 0, "USER: <image>\nwhat <image> ASSISTANT:[ x</s>]"),
        (
            [("\u732b?", "\u00e9 \u732b")],
            0,
            "USER: <image>\n\u732b? ASSISTANT:[ \u00e9 \u732b</s>]",
        ),
    ],
)
def test_vicuna_learns_answers_with_their_end(
    turns: list[tuple[str, str]], image: int | None, expected: str
) -> None:
    encoded = encode(chat.VICUNA_V1, *turns, image=image)
    if turns[0][0].isascii():
        assert marked(encoded) == f"<s>{SYSTEM}{expected}"
    learnt = [i for i, flag in zip(encoded.ids, encoded.learnt, strict=True) if flag]
    said = "".join(f" {answer}</s>" for _, answer in turns)
    assert TOKENIZER.decode(learnt) == said
    # One structural image and one end per turn, whatever the words spell.
    assert encoded.ids.count(IMAGE_ID) == (image is not None)
    assert encoded.ids.count(TOKENIZER.eos_token_id) == len(turns)


def test_plain_learns_caption_and_newline_and_no_end() -> None:
    assert marked(encode(chat.PLAIN, ("ignored", "A cat."))) == "<s><image>[A cat.\n]"


def test_a_prompt_in_training_is_the_prompt_of_inference() -> None:
    prompt = TOKENIZER(chat.VICUNA_V1.render("Look here.")).input_ids
    encoded = encode(chat.VICUNA_V1, ("Look here.", "A cat."))
    assert encoded.ids[: len(prompt)] == prompt
    assert encoded.learnt[: len(prompt)] == [False] * len(prompt)


def test_length_counts_the_image_as_its_tokens() -> None:
    encoded = encode(chat.PLAIN, ("", "A cat."))
    assert encoded.length == len(encoded.ids) + 15


def test_long_text_is_cut_at_the_end_and_an_image_never() -> None:
    whole = encode(chat.VICUNA_V1, ("Hi?", "long " * 50))
    cut = encode(chat.VICUNA_V1, ("Hi?", "long " * 50), most=whole.length - 20)
    assert cut.length == whole.length - 20
    assert cut.ids == whole.ids[:-20]
    assert encode(chat.VICUNA_V1, ("Hi?", "Yes."), most=20) == "too_long"
    prompt = TOKENIZER(chat.VICUNA_V1.render("Hi?")).input_ids
    assert encode(chat.VICUNA_V1, ("Hi?", "Yes."), most=len(prompt) + 15) == "nothing_learnt"


PIECES = (
    "a cat", "Un chat noir.", "\u732b\u304c\u3044\u308b", "\u00e9t\u00e9", "\U0001f408",
    "USER:", "ASSISTANT: yes", "</s>", "<s>", "<image>", "\n", "  ", "[INST]", "\u200b", "",
)  # fmt: skip


def test_whatever_is_said_the_answers_are_learnt_and_nothing_else() -> None:
    chance = random.Random(0)

    def said() -> str:
        return " ".join(chance.choices(PIECES, k=chance.randrange(5)))

    for _ in range(300):
        turns = [(said(), said()) for _ in range(chance.randint(1, 4))]
        image = chance.choice([None, *range(len(turns))])
        encoded = encode(chat.VICUNA_V1, *turns, image=image)
        flagged = list(zip(encoded.learnt, encoded.ids, strict=True))[1:]  # behind BOS
        parts = [[token for _, token in part] for _, part in groupby(flagged, lambda f: f[0])]
        # The template told once more, as plain text: what is asked, what is answered, in turn.
        expected = []
        for number, (question, answer) in enumerate(turns):
            system = SYSTEM if number == 0 else ""
            mark = "<image>\n" if number == image else ""
            expected += [f"{system}USER: {mark}{question} ASSISTANT:", f" {answer}</s>"]
        assert [TOKENIZER.decode(part) for part in parts] == expected
        assert encoded.ids.count(IMAGE_ID) == (image is not None)
        assert encoded.ids.count(TOKENIZER.eos_token_id) == len(turns)
