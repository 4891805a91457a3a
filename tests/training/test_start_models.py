"""Start models that training does not compute as they are: each is refused with a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s4v_core.errors import ConfigError
from s4v_core.recipes import FINETUNE
from s4v_core.training.checks import check_stage
from tests.model.untrained import build_untrained


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "model"
    build_untrained(folder)
    return folder


def _edit(name: str, *path: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        part = whole
        for one in path:
            part = part[one]
        part.update(changes)
        (folder / name).write_text(json.dumps(whole))

    return edit


CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"
SIGLIP = {"hidden_size": 64, "num_attention_heads": 2, "model_type": "siglip_vision_model"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            _edit(CONFIG, vision_feature_select_strategy="full"),
            "vision_feature_select_strategy: found full, allowed default",
        ),
        (_edit(CONFIG, vision_feature_layer=[-2, -3]), r"vision_feature_layer: found \[-2, -3\]"),
        (_edit(CONFIG, vision_feature_layer=-7), "found -7, allowed one number from -4 to 3"),
        (_edit(CONFIG, tie_word_embeddings=True), "tie_word_embeddings: found True, allowed false"),
        (_edit(CONFIG, vision_config=SIGLIP), "found siglip_vision_model, allowed clip_vision"),
        (
            _edit(CONFIG, text_config={"model_type": "qwen2", "hidden_size": 128}),
            "text_config.model_type: found qwen2, allowed llama",
        ),
        (_edit(TOKENIZER, pad_token=None), "pad_token: found None, allowed a token"),
        (
            _edit(CONFIG, architectures=["LlavaLlamaForCausalLM"], mm_vision_tower="openai/clip"),
            r"is in the original layout; convert it first: .*convert\.py ",
        ),
        (
            _edit(CONFIG, model_type="share4v", mm_vision_tower="x", architectures=None),
            r"is in the original layout; convert it first: .*convert\.py ",
        ),
    ],
)
def test_a_start_model_of_another_kind_is_refused(
    untrained: Path, tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    folder = Path(shutil.copytree(untrained, tmp_path / "model"))
    change(folder)
    _check_refused(folder, sentence)


def test_an_adapter_alone_is_told_of_its_merging(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    _check_refused(tmp_path, r"holds an adapter alone; .*convert\.py .* --base MODEL")


def _check_refused(folder: Path, sentence: str) -> None:
    output = folder.with_name("out")
    job = FINETUNE["demo"].replace(model=str(folder), output=str(output), demo_scenes=0)
    with pytest.raises(ConfigError, match=sentence) as error:
        check_stage(job)
    assert "\n" not in str(error.value)
    assert not output.exists()
