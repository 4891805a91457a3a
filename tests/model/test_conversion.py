"""Conversion of a synthetic original checkpoint in both directions, compared with a reference."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from s4v_core.errors import InputError
from s4v_core.model import conversion
from s4v_core.model.names import disk_name_of_original
from s4v_core.model.weight_files import WeightWriter, read_tensors
from tests.model.reference import reference_logits
from tests.model.synthetic import write_original


def _ignored(name: str) -> None:
    pass


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(tmp_path_factory.mktemp("original") / "ShareGPT4V-tiny")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in read_tensors(folder)}


def test_original_to_ours_and_back_is_bitwise_lossless(original: Path, tmp_path: Path) -> None:
    assert conversion.is_original(original)
    conversion.to_disk_layout(original, None, tmp_path / "ours", _ignored)
    assert not conversion.is_original(tmp_path / "ours")
    conversion.to_original_layout(tmp_path / "ours", tmp_path / "back", _ignored)
    for part in (".", "vision_tower"):
        before, after = _tensors(original / part), _tensors(tmp_path / "back" / part)
        before = {k: v for k, v in before.items() if disk_name_of_original(k) is not None}
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (original / "config.json").read_text()
    )


def test_transformers_loads_every_tensor_and_pads_images_as_the_config_says(
    original: Path, tmp_path: Path
) -> None:
    conversion.to_disk_layout(original, None, tmp_path / "ours", _ignored)
    model, report = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.text_config.vocab_size % 64 == 0
    settings = json.loads((tmp_path / "ours" / "processor_config.json").read_text())
    assert settings["image_processor"]["do_pad"] is True
    assert settings["num_additional_image_tokens"] == 1


def test_logits_equal_those_of_a_reference_that_reads_the_original_names(
    original: Path, tmp_path: Path
) -> None:
    conversion.to_disk_layout(original, None, tmp_path / "ours", _ignored)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    image = model.config.image_token_index
    ids = [1, 20, 30, *[image] * 16, 40, 50, 60, 70]
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, :, :509]
        wanted = reference_logits(
            _tensors(original),
            _tensors(original / "vision_tower"),
            [1, 20, 30, None, 40, 50, 60, 70],
            pixels,
            heads=(2, 4),
        )
    assert (found - wanted).abs().max() < 1e-5


def test_added_rows_stay_near_the_mean_and_old_ones_are_untouched() -> None:
    table = torch.randn(500, 32) * 3 + 7
    grown = conversion.append_rows(table, 512)
    assert torch.equal(grown[:500], table)
    assert (grown[500:] - table.mean(dim=0)).abs().max() < 0.1
    assert torch.equal(grown, conversion.append_rows(table, 512))


def test_a_missing_tower_is_named_and_not_replaced_by_another(
    original: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds no vision tower"):
        conversion.to_disk_layout(original, tmp_path, tmp_path / "ours", _ignored)
    assert not (tmp_path / "ours").exists()


def test_a_pickle_that_runs_code_is_refused(original: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"x": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match="weights_only"):
        list(read_tensors(tmp_path))
    assert not (tmp_path / "harm").exists()


def test_a_large_model_is_written_in_files_with_an_index(tmp_path: Path) -> None:
    writer = WeightWriter(tmp_path / "model", file_bytes=1000)
    tensors = {f"t{n}": torch.full((100,), float(n)) for n in range(7)}
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.close()
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == 2800
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "model" / file)[name], tensors[name])
    assert not list((tmp_path / "model").glob("*.partial"))


def test_the_script_converts_both_ways_and_never_overwrites(original: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        script = Path(__file__).resolve().parents[2] / "ray_jobs" / "convert.py"
        done = subprocess.run(
            [sys.executable, script, *arguments], capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    ours, back = str(tmp_path / "ours"), str(tmp_path / "back")
    code, out, err = run(str(original), ours)
    assert code == 0, err
    assert "transformers and vLLM layout" in out
    code, out, err = run(ours, back)
    assert code == 0, err
    assert "original layout" in out
    code, _, err = run(str(original), ours)
    assert code == 2
    assert "exists; name a folder that does not" in err
    code, _, err = run(str(tmp_path), str(tmp_path / "x"))
    assert code == 2
    assert "holds no config.json" in err
    assert not (tmp_path / "x").exists()
