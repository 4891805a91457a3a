"""The small checkpoints have the layouts of real repositories, and a pass reads them rightly."""

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from s4v_core.errors import ConfigError
from s4v_core.model.checkpoint_facts import read_facts
from tests.architectures.answers import check_checkpoint
from tests.architectures.catalogue import ARCHITECTURES

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("architectures")
    for name, architecture in ARCHITECTURES.items():
        architecture.build(folder / name)
    return {name: folder / name for name in ARCHITECTURES}


def test_a_checkpoint_is_a_few_megabytes_of_the_class_that_its_config_names(
    checkpoints: dict[str, Path],
) -> None:
    for name, folder in checkpoints.items():
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert size < 6e6, name
        config = json.loads((folder / "config.json").read_text())
        assert len(config["architectures"]) == 1, name
        assert "vision_config" in config, name


def test_image_settings_lie_in_a_file_of_their_own_as_transformers_4_wrote_them(
    checkpoints: dict[str, Path],
) -> None:
    for name, folder in checkpoints.items():
        images = json.loads((folder / "preprocessor_config.json").read_text())
        assert "image_processor_type" in images, name
        if (folder / "processor_config.json").exists():
            processor = json.loads((folder / "processor_config.json").read_text())
            assert "image_processor" not in processor, name


def test_templates_lie_in_every_place_that_repositories_use(checkpoints: dict[str, Path]) -> None:
    places: dict[str, set[str]] = {}
    for name, folder in checkpoints.items():
        words = json.loads((folder / "tokenizer_config.json").read_text())
        found = [file for file in ("chat_template.json", "chat_template.jinja")
                 if (folder / file).exists()]  # fmt: skip
        if "chat_template" in words:
            found.append("named" if isinstance(words["chat_template"], list) else "tokenizer")
        assert len(found) <= 1, name
        places.setdefault(found[0] if found else "nowhere", set()).add(name)
    assert places.keys() == {
        "chat_template.json", "chat_template.jinja", "tokenizer", "named", "nowhere",
    }  # fmt: skip
    assert places["nowhere"] == {"paligemma", "llava_1_5_untold"}
    assert "joycaption" in places["tokenizer"]


def test_several_end_tokens_are_listed_where_real_repositories_list_them(
    checkpoints: dict[str, Path],
) -> None:
    ends = {
        name: json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        for name, folder in checkpoints.items()
    }
    several = {name for name, ids in ends.items() if isinstance(ids, list) and len(ids) > 1}
    assert {"qwen2_5_vl", "gemma3", "glm4v", "joycaption", "llama4", "idefics3"} <= several


def test_vision_towers_have_the_names_of_published_weights(checkpoints: dict[str, Path]) -> None:
    for name in ("llava_1_5", "joycaption", "gemma3", "paligemma"):
        with safe_open(checkpoints[name] / "model.safetensors", "pt") as file:
            names = [key for key in file.keys() if "vision_tower." in key]  # noqa: SIM118
        assert names, name
        assert all("vision_tower.vision_model." in key for key in names), name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pass_takes_the_template_that_belongs_to_the_checkpoint(
    checkpoints: dict[str, Path], name: str
) -> None:
    assert read_facts(str(checkpoints[name])).template == ARCHITECTURES[name].template


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.needs])
def test_a_missing_package_of_a_processor_is_named(checkpoints: dict[str, Path], name: str) -> None:
    needs = ARCHITECTURES[name].needs
    assert needs is not None
    if importlib.util.find_spec(needs):
        pytest.skip(f"{needs} is installed")
    with pytest.raises(ConfigError, match=needs):
        check_checkpoint(str(checkpoints[name]), "vllm")
