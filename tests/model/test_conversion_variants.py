"""Original checkpoints as people have them, converted, against a reference on their own tensors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoProcessor, AutoTokenizer, LlavaConfig

from s4v_core.model.processor import build_processor
from tests.model.reference import Weights
from tests.model.variants import (
    INSIDE,
    compare_with_reference,
    edit_config,
    edit_tensors,
    load,
    run_script,
    write_clip,
    write_loud,
)

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ATTENTION = "model.layers.0.self_attn."


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loud(tmp_path_factory.mktemp("loud") / "llava")


@pytest.fixture
def source(loud: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(loud, tmp_path / "llava"))


def _convert_and_compare(source: Path, *flags: object, **reference: object) -> LlavaConfig:
    """Convert, compare the logits with the reference, and return the written config."""
    target = source.with_name("ours")
    main, tower = load(source), load(source / "vision_tower")
    main.setdefault(HEAD, main[TABLE])
    assert run_script(source, target, *flags) is None
    difference, model = compare_with_reference(target, main, tower, **reference)
    assert difference < 3e-5
    return model.config


def test_a_whole_clip_is_a_tower_and_its_text_half_is_named(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(source.with_name("clip-vit-large-patch14-336"), source)
    (source / "vision_tower" / "config.json").rename(source / "kept.json")
    _convert_and_compare(source, "--tower", clip)
    said = capsys.readouterr().out
    assert "tensors left out: 23 (the text half of CLIP)" in said
    assert "tensors left out: 3 (buffers that every loader recomputes)" in said


def test_the_tensors_of_the_reference_matter(source: Path) -> None:
    main, tower = load(source), load(source / "vision_tower")
    assert run_script(source, source.with_name("ours")) is None
    for weights in (main, tower):
        for name in ("model.layers.1.mlp.down_proj.weight", "vision_model.pre_layrnorm.bias"):
            if name in weights:
                before = weights[name].clone()
                weights[name] += 0.05
                difference, _ = compare_with_reference(source.with_name("ours"), main, tower)
                assert difference > 1e-3
                weights[name] = before


def test_linear_rope_scaling_is_kept(source: Path) -> None:
    edit_config(source, rope_scaling={"type": "linear", "factor": 4.0})
    config = _convert_and_compare(source, rope_factor=4.0)
    assert config.text_config.rope_parameters == {
        "rope_type": "linear",
        "factor": 4.0,
        "rope_theta": 10000.0,
    }


@pytest.mark.parametrize(
    ("scaling", "kept"),
    [
        ({"type": "dynamic", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}),
        ({"rope_type": "linear", "factor": 8}, {"rope_type": "linear", "factor": 8}),
        (
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        ),
    ],
)
def test_other_rope_scalings_are_kept(source: Path, scaling: dict, kept: dict) -> None:
    edit_config(source, rope_scaling=scaling, rope_theta=50_000.0)
    assert run_script(source, source.with_name("ours")) is None
    found = LlavaConfig.from_pretrained(source.with_name("ours")).text_config.rope_parameters
    assert kept.items() <= found.items()
    assert found["rope_theta"] == 50_000.0


def test_features_with_the_class_token_stay_so_in_model_and_processor(source: Path) -> None:
    edit_config(source, mm_vision_select_feature="cls_patch")
    config = _convert_and_compare(source, keeps_class_token=True)
    assert (config.vision_feature_select_strategy, config.image_seq_length) == ("full", 17)
    processor = AutoProcessor.from_pretrained(source.with_name("ours"))
    picture = torch.zeros(3, 60, 80, dtype=torch.uint8)
    inputs = processor(text="<image>\nhello", images=picture, return_tensors="pt")
    assert int((inputs["input_ids"] == config.image_token_index).sum()) == 17


def _tie(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if name != HEAD}


def _tie_with_copy(weights: Weights) -> Weights:
    return weights | {HEAD: weights[TABLE]}


def _tie_64_rows(weights: Weights) -> Weights:
    """Rows that need none added, so that embeddings and head are written as they are read."""
    return weights | {TABLE: torch.cat([weights[TABLE], torch.ones(67, 128)])}


def test_a_tied_head_that_needs_no_rows_is_written_too(source: Path) -> None:
    edit_tensors(source, lambda weights: _tie(_tie_64_rows(weights)))
    edit_config(source, tie_word_embeddings=True, vocab_size=576)
    target = source.with_name("ours")
    assert run_script(source, target) is None
    ours = load(target)
    head, table = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    assert torch.equal(ours[head], ours[table])


def test_tensors_that_share_memory_in_a_pickle_are_written_apart(source: Path) -> None:
    main = load(source)
    q, k = (f"{ATTENTION}{part}_proj.weight" for part in "qk")
    both = torch.cat([main[q], main[k]])
    main |= {q: both[:128], k: both[128:]}
    (source / "pytorch_model.bin").unlink()
    torch.save(main, source / "pytorch_model.bin")
    _convert_and_compare(source)


def test_another_tower_than_that_of_the_folder_is_named(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(source.with_name("clip"), source, change=0.3)
    assert run_script(source, source.with_name("ours"), "--tower", clip) is None
    assert "vision_tower, as --tower names another)" in capsys.readouterr().out
    tower = {k: v for k, v in load(clip).items() if k.startswith("vision_model.")}
    assert compare_with_reference(source.with_name("ours"), load(source), tower)[0] < 3e-5


@pytest.mark.parametrize("change", [_tie, _tie_with_copy])
def test_a_tied_head_becomes_a_head_of_its_own(
    source: Path, tmp_path: Path, change: Callable[[Weights], Weights]
) -> None:
    edit_tensors(source, change)
    edit_config(source, tie_word_embeddings=True)
    config = _convert_and_compare(source)
    assert not config.tie_word_embeddings
    assert run_script(source.with_name("ours"), tmp_path / "back") is None
    assert (
        json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    assert torch.equal(load(tmp_path / "back")[HEAD], load(source)[TABLE])


def test_a_llama_with_biases_of_attention_keeps_them(source: Path) -> None:
    def add(weights: Weights) -> Weights:
        names = [n for n in weights if ".self_attn." in n and n.endswith("_proj.weight")]
        biases = {n.replace(".weight", ".bias"): torch.randn(weights[n].shape[0]) for n in names}
        return weights | biases

    edit_tensors(source, add)
    edit_config(source, attention_bias=True)
    _convert_and_compare(source)


def test_mixed_types_convert_and_load(source: Path) -> None:
    def lower(weights: Weights) -> Weights:
        return {k: v if "mm_projector" in k else v.half() for k, v in weights.items()}

    edit_tensors(source, lower)
    edit_tensors(source / "vision_tower", lambda tower: {k: v.bfloat16() for k, v in tower.items()})
    edit_config(source, torch_dtype="float16")
    assert run_script(source, source.with_name("ours")) is None
    main, tower = (
        {k: v.float() for k, v in load(f).items()} for f in (source, source / "vision_tower")
    )
    assert compare_with_reference(source.with_name("ours"), main, tower)[0] < 3e-5


@pytest.mark.parametrize("rows", [512, 513, 640])
def test_rows_beyond_the_tokenizer_are_kept(source: Path, rows: int) -> None:
    def grow(weights: Weights) -> Weights:
        more = {name: torch.randn(rows - 509, weights[name].shape[1]) for name in (TABLE, HEAD)}
        return weights | {name: torch.cat([weights[name], more[name]]) for name in more}

    edit_tensors(source, grow)
    edit_config(source, vocab_size=rows)
    main = load(source)
    target = source.with_name("ours")
    assert run_script(source, target) is None
    ours = load(target)
    name = "language_model.model.embed_tokens.weight"
    assert torch.equal(ours[name][:rows], main[TABLE])
    assert ours[name].shape[0] == -(-rows // 64) * 64
    main[HEAD] = main[HEAD][:509]
    assert compare_with_reference(target, main, load(source / "vision_tower"))[0] < 3e-5


@pytest.mark.parametrize("pad", [None, "<unk>"])
def test_a_tokenizer_without_a_pad_token_of_its_own_gets_one(source: Path, pad: str | None) -> None:
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings |= {"pad_token": pad}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    assert run_script(source, source.with_name("ours")) is None
    tokenizer = AutoTokenizer.from_pretrained(source.with_name("ours"))
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.pad_token_id != tokenizer.unk_token_id


def _move_inside(source: Path, dtype: torch.dtype, change: float = 0.0) -> None:
    """Put the tower into the main files, as LLaVA saves it, and change one tensor of it there."""
    tower = load(source / "vision_tower")
    tower["vision_model.embeddings.patch_embedding.weight"] += change
    edit_tensors(source, lambda main: main | {INSIDE + k: v.to(dtype) for k, v in tower.items()})


def test_a_tuned_tower_inside_the_main_files_is_used(source: Path) -> None:
    _move_inside(source, torch.float32, change=0.3)
    (source / "vision_tower" / "pytorch_model.bin").unlink()  # its config.json stays
    main = load(source)
    tower = {k.removeprefix(INSIDE): v for k, v in main.items() if k.startswith(INSIDE)}
    assert run_script(source, source.with_name("ours")) is None
    assert compare_with_reference(source.with_name("ours"), main, tower)[0] < 3e-5


def test_the_same_tower_in_a_coarser_type_inside_contradicts_nothing(source: Path) -> None:
    _move_inside(source, torch.bfloat16)
    clip = write_clip(source.with_name("clip"), source)
    _convert_and_compare(source, "--tower", clip)


def test_the_tower_folder_of_share4v_wins_and_the_other_is_named(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _move_inside(source, torch.float32, change=0.3)
    _convert_and_compare(source)
    assert "the vision tower in the main files, other than that in" in capsys.readouterr().out


@pytest.mark.parametrize("layer", [-1, -3, 2])
def test_the_layer_of_the_features_is_kept(source: Path, layer: int) -> None:
    edit_config(source, mm_vision_select_layer=layer)
    assert run_script(source, source.with_name("ours")) is None
    assert LlavaConfig.from_pretrained(source.with_name("ours")).vision_feature_layer == layer


def test_indexed_safetensors_and_old_pickles_are_read(source: Path) -> None:
    main = load(source)
    names = sorted(main)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: main[name] for name in part}, source / file)
        places |= dict.fromkeys(part, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (source / "pytorch_model.bin").write_bytes(b"not read")
    tower = load(source / "vision_tower")
    file = source / "vision_tower" / "pytorch_model.bin"
    torch.save(tower, file, _use_new_zipfile_serialization=False)
    _convert_and_compare(source)


def test_a_config_without_a_type_takes_that_of_the_weights(source: Path) -> None:
    edit_config(source, torch_dtype=None)
    assert _convert_and_compare(source).dtype == torch.float32
    assert json.loads((source.with_name("ours") / "config.json").read_text())["dtype"] == "float32"


def test_a_checkpoint_that_was_converted_back_converts_again(source: Path, tmp_path: Path) -> None:
    assert run_script(source, tmp_path / "ours") is None
    assert run_script(tmp_path / "ours", tmp_path / "back") is None
    assert run_script(tmp_path / "back", tmp_path / "again") is None
    first, second = load(tmp_path / "ours"), load(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("before", ["pad", "square", None])
def test_images_that_training_pads_otherwise_stay_so_on_the_way_back(
    source: Path, tmp_path: Path, before: str | None
) -> None:
    edit_config(source, image_aspect_ratio=before)
    ours = tmp_path / "ours"
    assert run_script(source, ours) is None
    tokenizer = AutoTokenizer.from_pretrained(ours)
    build_processor(tokenizer, 56, 14, pad=before != "pad").save_pretrained(ours)
    assert run_script(ours, tmp_path / "back") is None
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["image_aspect_ratio"] == ("square" if before == "pad" else "pad")
