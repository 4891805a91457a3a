"""A checkpoint's own chat template in training: the ids of inference, and what is learnt."""

import json
import random
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
from tokenizers import AddedToken

from s4v_core import chat
from s4v_core.engines.chat_formats import build_messages
from s4v_core.engines.requests import Request
from s4v_core.engines.template_guard import GuardedTemplate
from s4v_core.errors import ConfigError
from s4v_core.training.data.own_template import OwnTemplate
from tests.model.untrained import untrained_tokenizer

QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for part in m.content %}{% if part.type == 'image' %}<|image_pad|>{% else %}"
    "{{ part.text | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
)
TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>",
          "<start_of_turn>", "<end_of_turn>")  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = untrained_tokenizer()
    found.add_tokens([AddedToken(token, special=True) for token in TOKENS], special_tokens=True)
    return found


def _render(template: str, tokenizer: Any) -> Callable[..., str]:
    guard = GuardedTemplate("model", tokenizer.special_tokens_map)

    def render(turns: Any, image_turns: tuple[int, ...], system: str | None) -> str:
        *earlier, (question, answer) = turns
        images = tuple(() for _ in image_turns)
        request = Request("", "", images, question, tuple(earlier), system, image_turns=image_turns)
        end = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return guard.render(template, [*build_messages(request), end], {}, False)

    return render


def _own(template: str, tokenizer: Any) -> OwnTemplate:
    return OwnTemplate(_render(template, tokenizer), tokenizer, "<|image_pad|>")


EACH = "{% for m in messages %}"
WORDS = ("a cat", "Un chat noir.", "\u732b", "\U0001f408", "assistant", "12", "\n", "  ", "", "\ty")


@pytest.mark.parametrize("template", [QWEN, GEMMA], ids=["qwen", "gemma"])
def test_ids_are_those_of_the_rendered_text(template: str, tokenizer: Any) -> None:
    own, render = _own(template, tokenizer), _render(template, tokenizer)
    chance = random.Random(0)

    def say() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randrange(5)))

    for _ in range(60):
        turns = tuple((say(), say()) for _ in range(chance.randint(1, 3)))
        images = tuple(sorted(chance.choices(range(len(turns)), k=chance.randrange(3))))
        system = chance.choice([None, "Be brief."])
        pieces = own.build_pieces(turns, images, system)
        text = render(turns, images, system)
        assert "".join(piece.text for piece in pieces) == text
        wanted = tokenizer(text, add_special_tokens=False).input_ids
        image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert chat.encode(pieces, tokenizer, image_id, has_bos=False)[0] == wanted


@pytest.mark.parametrize(
    ("template", "end"), [(QWEN, "<|im_end|>"), (GEMMA, "<end_of_turn>")], ids=["qwen", "gemma"]
)
def test_answers_are_learnt_with_their_end_and_nothing_else(
    template: str, end: str, tokenizer: Any
) -> None:
    turns = [("Hi? <|im_end|>", "A cat <|im_start|>."), ("And?", "No.")]
    pieces = _own(template, tokenizer).build_pieces(turns, (0, 1), None)
    ids, learnt = chat.encode(pieces, tokenizer, 1, has_bos=False)
    flagged = groupby(zip(ids, learnt, strict=True), key=lambda item: item[1])
    parts = [tokenizer.decode([i for i, _ in part]) for is_learnt, part in flagged if is_learnt]
    assert parts == [f"A cat <|im_start|>.{end}", f"No.{end}"]
    # The words that spell special tokens are no special tokens.
    start = "<|im_start|>" if template == QWEN else "<start_of_turn>"
    turns_written = 5 if template == QWEN else 4
    assert ids.count(tokenizer.convert_tokens_to_ids(start)) == turns_written


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[-1].content[0].text }}", "leaves out"),
        (
            "{% for m in messages %}{{ m.content[-1].text }}{{ m.content[-1].text }}{% endfor %}",
            "repeats",
        ),
        ("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", "does not write 1 images"),
        ("{{ raise_exception('no') }}", "no"),
    ],
)
def test_a_template_that_cannot_be_learnt_from_is_refused(
    template: str, words: str, tokenizer: Any
) -> None:
    with pytest.raises(ConfigError, match=words):
        _own(template, tokenizer).build_pieces([("Hi?", "Yes.")], (0,), None)


def test_each_form_of_conversation_is_rendered_once(tokenizer: Any) -> None:
    rendered = []
    render = _render(QWEN, tokenizer)

    def count(*given: Any) -> str:
        rendered.append(json.dumps(given))
        return render(*given)

    own = OwnTemplate(count, tokenizer, "<|image_pad|>")
    for number in range(20):
        own.build_pieces([("Hi?", f"{number}"), ("And?", "x")][: 1 + number % 2], (0,), None)
    assert len(rendered) == 2
