"""A checkpoint's own chat template: what it may take, and what becomes of one that takes more."""

import shutil
from pathlib import Path

import pytest

from s4v_core.engines import template_guard
from s4v_core.engines.rendering import PromptRenderer
from s4v_core.engines.template_guard import GuardedTemplate
from s4v_core.errors import ConfigError

ASK = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


def _with_template(checkpoint: Path, folder: Path, template: str) -> str:
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_a_guarded_template_renders_what_transformers_renders(checkpoint: Path) -> None:
    renderer = PromptRenderer(str(checkpoint), "model")
    template = GuardedTemplate(str(checkpoint))
    wanted = renderer.processor.apply_chat_template(ASK, add_generation_prompt=True)
    assert template.render(ASK) == wanted
    assert template.render(ASK) == wanted
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
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    if "more than" in sentence:
        monkeypatch.setattr(template_guard, "DEADLINE_S", 2.0)
    template = GuardedTemplate(_with_template(checkpoint, tmp_path / "model", text))
    with pytest.raises(ConfigError, match=f"template: the chat template of .* {sentence}"):
        template.render(ASK)
    if "more than" in sentence:  # its child was killed, and is replaced
        with pytest.raises(ConfigError, match=sentence):
            template.render(ASK)
    template.close()
