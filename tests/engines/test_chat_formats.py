"""Chat templates in all places and forms, by the rules that need no vLLM."""

import json
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest

from s4v_core.engines.chat_formats import find_switches
from s4v_core.engines.rendering import PromptRenderer, load_renderer
from s4v_core.engines.requests import Request
from s4v_core.errors import ConfigError

PARTS = (
    "{% for m in messages %}[{{ m['role'] }}]{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRINGS = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] + '' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
WANTED = {PARTS: "[user]<image>What?[assistant]", STRINGS: "[user]<image>\nWhat?[assistant]"}
ONE_IMAGE = (np.zeros((8, 8, 3), np.uint8),)


def _place(checkpoint: Path, folder: Path, template: str, where: str) -> str:
    """A copy of a checkpoint whose only chat template lies in one place."""
    shutil.copytree(checkpoint, folder)
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)
    words_file = folder / "tokenizer_config.json"
    words = json.loads(words_file.read_text())
    words.pop("chat_template", None)
    if where == "jinja":
        (folder / "chat_template.jinja").write_text(template)
    elif where == "json":
        text = json.dumps({"chat_template": template})
        (folder / "chat_template.json").write_text(text)
    elif where == "tokenizer":
        words["chat_template"] = template
    elif where == "named":
        other = {"name": "tool_use", "template": "x"}
        words["chat_template"] = [other, {"name": "default", "template": template}]
    words_file.write_text(json.dumps(words))
    return str(folder)


def _render(renderer: PromptRenderer) -> str:
    text = renderer.question_text("What?")
    renderer.close()
    return text


@pytest.mark.parametrize(
    ("where", "template"),
    [("jinja", PARTS), ("json", STRINGS), ("tokenizer", STRINGS), ("named", STRINGS)],
)
def test_a_template_is_found_wherever_it_lies(
    checkpoint: Path, tmp_path: Path, where: str, template: str
) -> None:
    renderer, _ = load_renderer(_place(checkpoint, tmp_path / "m", template, where), "model")
    assert _render(renderer) == WANTED[template]


def test_the_process_of_a_template_ends_with_the_last_use_of_its_renderer(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = _list_guards()
    renderer, _ = load_renderer(_place(checkpoint, tmp_path / "m", PARTS, "jinja"), "model")
    assert renderer.question_text("What?") == WANTED[PARTS]
    guards = _list_guards() - before
    assert len(guards) == 1
    del renderer
    _, alive = psutil.wait_procs(guards, timeout=30)
    assert not alive


def _list_guards() -> set[psutil.Process]:
    """This process's children that render templates."""
    children = psutil.Process().children()
    return {child for child in children if "template_guard" in " ".join(child.cmdline())}


def test_a_checkpoint_without_a_template_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_type llava has no chat template; give --template"):
        load_renderer(_place(checkpoint, tmp_path / "m", "", "nowhere"), "model")


def test_switches_of_thinking_are_those_that_a_template_reads() -> None:
    assert find_switches("{% if enable_thinking is defined %}{% endif %}") == {
        "enable_thinking": False
    }
    assert find_switches("{{ messages[0].thinking }}") == {}
    assert find_switches("{% generation %}x{% endgeneration %}{{ thinking }}") == {
        "thinking": False
    }
    assert find_switches("{% if %}") == {}


def test_thinking_is_off_where_the_template_can_and_cut_where_it_cannot(
    checkpoint: Path, tmp_path: Path
) -> None:
    can = STRINGS + "{% if enable_thinking is not defined %}<think>{% endif %}"
    cannot = STRINGS + "<think>\n"
    asked = Request("", "", ONE_IMAGE, "What?")
    for number, (template, is_open) in enumerate(((can, False), (cannot, True))):
        folder = _place(checkpoint, tmp_path / f"{number}", template, "jinja")
        renderer, _ = load_renderer(folder, "model")
        assert renderer.is_thinking_open(asked) == is_open
        ids = renderer.tokenizer("The image shows</think>The image.").input_ids[1:]
        found = renderer.read_answer(asked, ids, "stop", 9)
        assert (found.text, found.output_tokens) == ("The image.", len(ids))
        assert found.thinking_tokens is not None
        assert 0 < found.thinking_tokens < len(ids)
        unfinished = renderer.read_answer(asked, ids[:3], "length", 9)
        assert unfinished.reason == ("thinking_unfinished" if is_open else None)
        assert (unfinished.text is None) == is_open
        renderer.close()


def test_the_end_of_a_turn_is_the_special_token_behind_an_answer(
    checkpoint: Path, tmp_path: Path
) -> None:
    for number, (template, token) in enumerate(((PARTS, "</s>"), (STRINGS, None))):
        folder = _place(checkpoint, tmp_path / f"{number}", template, "jinja")
        renderer, _ = load_renderer(folder, "model")
        wanted = renderer.tokenizer.convert_tokens_to_ids(token) if token else None
        assert renderer.find_turn_end() == wanted
        renderer.close()


def test_a_question_that_spells_the_image_token_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    renderer, _ = load_renderer(_place(checkpoint, tmp_path / "m", PARTS, "jinja"), "model")
    with pytest.raises(ConfigError, match="found an image token of the model in 'A <image>"):
        renderer.question_ids("A <image> here?")
    assert renderer.question_ids("What?").count(renderer.image_id) == 1
    renderer.close()


@pytest.mark.parametrize("template", ["vicuna_v1", "model"])
def test_the_start_of_an_answer_stands_behind_the_prompt(
    checkpoint: Path, tmp_path: Path, template: str
) -> None:
    folder = _place(checkpoint, tmp_path / "m", PARTS, "jinja")
    renderer, _ = load_renderer(folder, template)
    plain = Request("", "", ONE_IMAGE, "What?")
    begun = Request("", "", ONE_IMAGE, "What?", prefill="The image shows")
    text = renderer.render(begun)
    assert text == renderer.render(plain) + (" " if template == "vicuna_v1" else "") + begun.prefill
    ids = renderer.token_ids(begun)
    assert len(ids) > len(renderer.token_ids(plain))
    answer = renderer.tokenizer(" one shape.", add_special_tokens=False).input_ids
    assert renderer.read_answer(begun, answer, "stop", 9).text == "The image shows one shape."
    renderer.close()
