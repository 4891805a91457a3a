import json
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.model.checkpoint_facts import read_facts
from tests.model.untrained import build_untrained


def test_an_untrained_checkpoint_is_small_and_the_same_for_a_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_untrained(tmp_path / name)
    build_untrained(tmp_path / "three", seed=1)
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two", "three")]
    assert weights[0] == weights[1] != weights[2]
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "one")
    assert sum(p.numel() for p in model.parameters()) < 1_000_000


def test_names_on_disk_are_those_that_vllm_maps(checkpoint: Path) -> None:
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        names = set(file.keys())
    prefixes = {name.rpartition(".")[0].split(".")[0] for name in names}
    assert prefixes == {"vision_tower", "multi_modal_projector", "language_model"}
    assert all(n.startswith("vision_tower.vision_model.") for n in names if "vision" in n)
    assert "language_model.lm_head.weight" in names


def test_transformers_finds_every_parameter(checkpoint: Path) -> None:
    _, report = LlavaForConditionalGeneration.from_pretrained(checkpoint, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_the_processor_counts_one_token_per_patch(checkpoint: Path) -> None:
    from PIL import Image

    processor = AutoProcessor.from_pretrained(checkpoint)
    inputs = processor(text="<image>\nWhat?", images=Image.new("RGB", (80, 60)))
    ids = inputs["input_ids"][0]
    assert list(ids).count(processor.image_token_id) == 16


def test_facts_come_from_the_folder(checkpoint: Path, tmp_path: Path) -> None:
    facts = read_facts(str(checkpoint))
    assert facts.framing == Framing("crop", 56)
    assert facts.template == "vicuna_v1"
    build_untrained(tmp_path / "other", seed=1)
    assert read_facts(str(tmp_path / "other")).revision != facts.revision


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (None, "no such folder"),
        ({}, "holds no config.json"),
        ({"model_type": "llama"}, "takes no images"),
    ],
)
def test_a_folder_without_a_vision_checkpoint_is_refused_in_one_sentence(
    tmp_path: Path, make: dict[str, str] | None, sentence: str
) -> None:
    folder = tmp_path / "model"
    if make is not None:
        folder.mkdir()
        if make:
            (folder / "config.json").write_text(json.dumps(make))
    with pytest.raises(ConfigError, match=sentence):
        read_facts(str(folder))
