"""A checkpoint's own chat template: what it may take, and what becomes of one that takes more."""

from pathlib import Path

import pytest

from s4v_core.engines import template_guard
from s4v_core.engines.rendering import load_renderer
from s4v_core.engines.template_guard import GuardedTemplate
from s4v_core.errors import ConfigError

ASK = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


def test_a_guarded_template_renders_what_transformers_renders(checkpoint: Path) -> None:
    renderer, processor = load_renderer(str(checkpoint), "model")
    template = GuardedTemplate(str(checkpoint), renderer.tokenizer.special_tokens_map)
    text = processor.chat_template or processor.tokenizer.chat_template
    wanted = processor.apply_chat_template(ASK, add_generation_prompt=True)
    assert template.render(text, ASK) == wanted
    assert template.render(text, ASK) == wanted
    template.close()
    renderer.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(99) %}"
            "{% endfor %}{% endfor %}{% endfor %}",
            r"took more than 2 s",
        ),
        ("{{ 'x' * 3000000 }}", r"makes a prompt of 3000000 characters, allowed 1048576"),
        ("{% set a = 'x' * 90000000 %}{{ a * 30 }}", r"fails: MemoryError|memory"),
        ("{{ raise_exception('only text') }}", r"fails: TemplateError: only text"),
    ],
)
def test_a_template_that_takes_too_much_or_fails_is_one_sentence(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    if "more than" in sentence:
        monkeypatch.setattr(template_guard, "DEADLINE_S", 2.0)
    template = GuardedTemplate(str(checkpoint), {"bos_token": "<s>"})
    with pytest.raises(ConfigError, match=f"template: the chat template of .* {sentence}"):
        template.render(text, ASK)
    if "more than" in sentence:  # its child was killed, and is replaced
        with pytest.raises(ConfigError, match=sentence):
            template.render(text, ASK)
    template.close()
