"""The preflight with the demo captioner's own processor."""

from pathlib import Path

import pytest

from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines import preflight
from s4v_core.engines.preflight import Question, UntriedError, check_checkpoint, measure
from s4v_core.errors import ConfigError


def _ask(model: str = str(CAPTIONER), **others: object) -> Question:
    whole: dict[str, object] = {
        "model": model,
        "revision": "one",
        "template": "vicuna_v1",
        "prompts": ("What?", "What is in the picture?"),
        "spare_tokens": 0,
        "size_px": 64,
        "is_fixed": True,
        "answer_tokens": 96,
        "length": None,
        "options": {},
    }
    return Question(**whole | others)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4V_SCRATCH", str(tmp_path / "scratch"))


def test_it_finds_the_length_that_prompt_picture_and_answer_need() -> None:
    found = measure(_ask())
    assert found.tail.endswith("What is in the picture? ASSISTANT:")
    assert found.stops == ("</s>",)
    assert found.size_px == 64
    needed = found.prompt_tokens + 96
    assert needed <= found.max_model_len < needed + 64
    assert measure(_ask(spare_tokens=64)).prompt_tokens == found.prompt_tokens + 64


def test_a_length_that_holds_no_caption_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"settings.max_model_len: found 100 .*, needed \d+: a "):
        measure(_ask(length=100))


def test_it_runs_once_for_a_checkpoint_and_is_recalled(monkeypatch: pytest.MonkeyPatch) -> None:
    first = check_checkpoint(_ask())
    monkeypatch.setattr(preflight, "_run_child", lambda question: {})
    assert check_checkpoint(_ask()) == first


def test_a_folder_that_transformers_cannot_load_leaves_it_untried(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing_of_this_name"}')
    with pytest.raises(UntriedError, match="cannot be read by transformers"):
        check_checkpoint(_ask(str(tmp_path)))
