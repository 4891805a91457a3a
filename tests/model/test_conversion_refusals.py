"""Checkpoints that cannot be converted: each ends in one sentence, and no folder is left."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.model.reference import Weights
from tests.model.variants import (
    INSIDE,
    PROJECTOR,
    edit_config,
    edit_tensors,
    load,
    run_script,
    write_adapter,
    write_clip,
    write_language,
    write_loud,
    write_projector,
)

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORM = "model.layers.1.input_layernorm.weight"
Break = Callable[[Path], list[object] | None]
"""Breaks a source; further flags of the script, if there are any."""


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loud(tmp_path_factory.mktemp("loud") / "llava")


@pytest.fixture
def source(loud: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(loud, tmp_path / "llava"))


def _set(**changes: object) -> Break:
    return lambda source: edit_config(source, **changes)


def _change(change: Callable[[Weights], Weights], folder: str = ".") -> Break:
    return lambda source: edit_tensors(source / folder, change)


def _drop(*names: str) -> Break:
    return _change(lambda tensors: {k: v for k, v in tensors.items() if k not in names})


def _write(name: str, content: bytes) -> Break:
    def write(source: Path) -> None:
        (source / name).write_bytes(content)

    return write


def _cut(name: str, share: float) -> Break:
    def cut(source: Path) -> None:
        whole = (source / name).read_bytes()
        (source / name).write_bytes(whole[: int(len(whole) * share)])

    return cut


def _split(source: Path, index: bool) -> None:
    """Write the main tensors as two files of the published names."""
    main = load(source)
    (source / "pytorch_model.bin").unlink()
    places, names = {}, sorted(main)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: main[name] for name in part}, source / file)
        places |= dict.fromkeys(part, file)
    if index:
        path = source / "pytorch_model.bin.index.json"
        path.write_text(json.dumps({"weight_map": places}))


def _lose_file(source: Path, index: bool) -> None:
    _split(source, index)
    (source / "pytorch_model-00002-of-00002.bin").unlink()


def _lose_tensor(source: Path) -> None:
    _split(source, index=True)
    file = source / "pytorch_model-00001-of-00002.bin"
    kept = dict(list(torch.load(file).items())[1:])
    torch.save(kept, file)


def _keep_old_file(source: Path) -> None:
    main = load(source)
    _split(source, index=True)
    torch.save(main, source / "pytorch_model.bin")


def _cut_safetensors(source: Path) -> None:
    from safetensors.torch import save_file

    save_file(load(source), source / "model.safetensors")
    _cut("model.safetensors", 0.9)(source)


def _pickle_code(source: Path) -> None:
    torch.save({"x": Path("y")}, source / "pytorch_model.bin")


DAMAGED: dict[str, tuple[Break, str]] = {
    "indexed file": (
        lambda s: _lose_file(s, True),
        "lacks pytorch_model-00002-of-00002.bin; fetch",
    ),
    "numbered file": (lambda s: _lose_file(s, False), "lacks pytorch_model-00002-of-00002.bin; "),
    "indexed tensor": (_lose_tensor, "lacks 1 tensors that its index names, such as "),
    "file of another model": (_keep_old_file, "holds pytorch_model.bin, which its index does not"),
    "no weights": (lambda s: (s / "pytorch_model.bin").unlink(), "holds no weights"),
    "cut pickle": (_cut("pytorch_model.bin", 0.8), "pytorch_model.bin: is cut short or damaged"),
    "cut at a header": (_cut("pytorch_model.bin", 0.0001), "is cut short or damaged"),
    "empty": (_write("pytorch_model.bin", b""), "pytorch_model.bin: is empty"),
    "pointer": (_write("pytorch_model.bin", b"version https://git-lfs.x\n"), "pointer of Git LFS"),
    "page": (_write("pytorch_model.bin", b"<!DOCTYPE html>no"), "holds other objects|is cut short"),
    "code": (_pickle_code, "holds other objects than tensors"),
    "cut safetensors": (_cut_safetensors, "model.safetensors: is cut short or damaged"),
    "cut tower": (
        _cut("vision_tower/pytorch_model.bin", 0.5),
        "vision_tower/pytorch_model.bin: is",
    ),
    "tensor": (
        _drop(NORM),
        r"lacks 1 of the model's 80 tensors: language_model\.model\.layers\.1\.",
    ),
    "projector": (
        _drop(*(f"{PROJECTOR}{n}.{k}" for n in (0, 2) for k in ("weight", "bias"))),
        r"lacks 4 of the model's 80 tensors: multi_modal_projector\.linear_1\.bias",
    ),
    "head": (_drop(HEAD), "lacks 1 of the model's 80 tensors: language_model.lm_head.weight"),
    "embeddings": (_drop(TABLE), "holds no embeddings .* --language"),
    "tensor of the tower": (
        _change(
            lambda t: {k: v for k, v in t.items() if "post_layernorm" not in k}, "vision_tower"
        ),
        r"lacks 2 of the model's 80 tensors: vision_tower\.vision_model\.post_layernorm",
    ),
    "config": (_write("config.json", b'{"mm_'), "config.json: is no JSON"),
    "no config": (lambda s: (s / "config.json").unlink(), "holds no config.json"),
    "no tower": (lambda s: shutil.rmtree(s / "vision_tower"), "holds no vision tower .* --tower"),
    "no tokenizer": (lambda s: (s / "tokenizer.json").unlink(), r"holds no tokenizer \(tokenizer"),
    "cut tokenizer": (
        _cut("tokenizer.json", 0.5),
        "holds a tokenizer that transformers cannot load",
    ),
    "number of heads": (_set(num_attention_heads=None), "lacks num_attention_heads"),
    "nothing": (lambda s: shutil.rmtree(s), "is no folder here"),
}


def _add(**tensors: torch.Tensor) -> Break:
    return _change(lambda main: main | {k.replace("__", "."): v for k, v in tensors.items()})


def _bias_as_qwen(source: Path) -> None:
    names = [f"model.layers.{n}.self_attn.{p}_proj.bias" for n in range(2) for p in "qkv"]
    edit_tensors(source, lambda main: main | {name: torch.ones(128) for name in names})


def _make_linear(source: Path) -> None:
    def change(main: Weights) -> Weights:
        kept = {k: v for k, v in main.items() if not k.startswith(PROJECTOR)}
        return kept | {"model.mm_projector.weight": main[f"{PROJECTOR}0.weight"]}

    edit_tensors(source, change)


def _cut_rows(*names: str, rows: int = 500) -> Break:
    return _change(lambda main: main | {name: main[name][:rows] for name in names})


def _add_token(source: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["<loc>"])
    tokenizer.save_pretrained(source)
    rows = len(tokenizer) - 1
    edit_config(source, vocab_size=rows)
    edit_tensors(source, lambda main: main | {k: main[k][:rows] for k in (TABLE, HEAD)})


def _end_otherwise(source: Path) -> None:
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<unk>"}))


OTHERS: dict[str, tuple[Break, str]] = {
    "Qwen2": (
        _set(architectures=["LlavaQwenForCausalLM"], model_type="llava_qwen"),
        "architectures: found LlavaQwenForCausalLM, allowed LlavaLlamaForCausalLM",
    ),
    "Mistral": (_set(architectures=["LlavaMistralForCausalLM"]), "found LlavaMistralForCausalLM"),
    "MPT without a class": (_set(architectures=None, model_type="llava_mpt"), "found llava_mpt"),
    "Qwen2 under a Llama's name": (
        _bias_as_qwen,
        "holds 6 tensors that LLaVA-1.5 with a Llama has no place for: .*k_proj.bias",
    ),
    "linear projector": (_set(mm_projector_type="linear"), "found linear, allowed mlp2x_gelu"),
    "linear projector by its tensors": (_make_linear, "projector is a single linear layer"),
    "deeper projector": (_set(mm_projector_type="mlp3x_gelu"), "found mlp3x_gelu, allowed mlp2x"),
    "resampler": (_set(mm_resampler_type="qformer"), "found qformer, allowed none"),
    "several scales": (_set(s2=True), "found s2, allowed none"),
    "marks around images": (_set(mm_use_im_start_end=True), "mm_use_im_start_end: found True"),
    "LLaVA-NeXT": (_set(image_aspect_ratio="anyres"), "found anyres, .* this is LLaVA-NeXT"),
    "merged patches": (_set(mm_patch_merge_type="spatial_unpad"), "found spatial_unpad"),
    "newline of LLaVA-NeXT": (_add(model__image_newline=torch.ones(128)), "model.image_newline"),
    "class token alone": (_set(mm_vision_select_feature="cls"), "found cls, allowed patch or"),
    "several layers": (_set(mm_vision_select_layer=[-2, -5]), r"select_layer: found \[-2, -5\]"),
    "a layer that is not there": (_set(mm_vision_select_layer=-9), "found -9, allowed one number"),
    "quantized": (
        _set(quantization_config={"quant_method": "gptq"}),
        r"quantized weights \(gptq\)",
    ),
    "quantized tensors": (_add(x__qweight=torch.ones(3).int()), "holds quantized weights"),
    "whole numbers": (
        _change(lambda main: main | {NORM: main[NORM].to(torch.int8)}),
        "found torch.int8, allowed floating-point numbers",
    ),
    "unknown rope": (_set(rope_scaling={"type": "su"}), "rope_scaling: found su, allowed linear"),
    "rope without factor": (
        _set(rope_scaling={"type": "linear"}),
        "Missing required keys .*factor",
    ),
    "another width": (
        _change(lambda main: main | {f"{PROJECTOR}0.weight": torch.ones(128, 32)}),
        r"linear_1.weight: found the shape \(128, 32\), needed \(128, 64\)",
    ),
    "rows of the config": (_set(vocab_size=600), "says vocab_size 600, .* have 509 and 509 rows"),
    "rows of the head": (_cut_rows(HEAD), "vocab_size 509, .* have 509 and 500 rows"),
    "tokens without rows": (_add_token, "tokenizer: 1 tokens such as '<loc>' have no row"),
    "tied with another head": (_set(tie_word_embeddings=True), "ties lm_head to the embeddings"),
    "another end": (_end_otherwise, "found the end token '<unk>', allowed '</s>'"),
}


def _check_refused(source: Path, sentence: str, *flags: object) -> None:
    target = source.with_name("target")
    found = run_script(source, target, *flags)
    assert found is not None
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(found)
    assert "\n" not in found
    assert not list(target.parent.glob("target*"))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_named(source: Path, name: str) -> None:
    spoil, sentence = DAMAGED[name]
    spoil(source)
    _check_refused(source, sentence)


@pytest.mark.parametrize("name", OTHERS)
def test_another_architecture_is_named(source: Path, name: str) -> None:
    spoil, sentence = OTHERS[name]
    spoil(source)
    _check_refused(source, sentence)


def _as_siglip(clip: Path) -> None:
    edit_config(clip, model_type="siglip")


def _as_224(clip: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    sizes |= {"num_attention_heads": 16, "image_size": 224, "patch_size": 14}
    edit_config(clip, vision_config=sizes)


def _with_other_colours(clip: Path) -> None:
    (clip / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')


def _without_weights(clip: Path) -> None:
    (clip / "pytorch_model.bin").unlink()


def _with_odd_heads(clip: Path) -> None:
    edit_config(clip, model_type="clip_vision_model", vision_config=None, hidden_size=65)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_as_siglip, "model_type: found siglip, allowed clip or clip_vision_model"),
        (_as_224, "takes pictures of 224 pixels .* was trained with .* which takes 336"),
        (_with_other_colours, r"image_mean: found \[0.5, 0.5, 0.5\], allowed CLIP's"),
        (_without_weights, "clip: holds no weights"),
        (_with_odd_heads, "clip: config.json: .*hidden size"),
        (lambda clip: shutil.rmtree(clip), "clip: is no folder here"),
    ],
)
def test_another_tower_is_named(source: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    clip = write_clip(source.with_name("clip"), source)
    shutil.rmtree(source / "vision_tower")
    edit_config(source, mm_vision_tower="openai/clip-vit-large-patch14-336")
    spoil(clip)
    _check_refused(source, sentence, "--tower", clip)


def test_a_stock_tower_never_replaces_a_tuned_one_inside(source: Path) -> None:
    clip = write_clip(source.with_name("clip"), source)
    tuned = {INSIDE + k: v * 1.01 for k, v in load(source / "vision_tower").items()}
    edit_tensors(source, lambda main: main | tuned)
    shutil.rmtree(source / "vision_tower")
    _check_refused(source, "a vision tower that differs from .* leave out --tower", "--tower", clip)
    _check_refused(source, "hold a vision tower .* without its config; put .*vision_tower")


def test_parts_alone_are_told_what_they_lack(source: Path, tmp_path: Path) -> None:
    language = write_language(tmp_path / "vicuna", source)
    clip = write_clip(tmp_path / "clip", source)
    projector = tmp_path / "stage0"
    write_projector(projector / "mm_projector.bin", source)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, projector)
    adapter = write_adapter(tmp_path / "lora", {"x.lora_A.weight": torch.ones(4, 4)})
    _check_refused(projector, "holds a projector alone; join it with the language model .* --lang")
    _check_refused(projector, "holds a projector alone", "--tower", clip)
    _check_refused(language, "is a language model alone; .* --language SRC --tower CLIP")
    _check_refused(clip, "is a vision tower alone; .* --tower SRC")
    _check_refused(adapter, "a LoRA adapter alone .made for lmsys/vicuna-7b-v1.5.; .* --base MODEL")


def test_the_script_ends_with_2_and_one_sentence(source: Path, tmp_path: Path) -> None:
    _lose_file(source, index=True)
    script = Path(__file__).resolve().parents[2] / "ray_jobs" / "convert.py"
    done = subprocess.run(
        [sys.executable, script, source, tmp_path / "target"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert last.endswith("lacks pytorch_model-00002-of-00002.bin; fetch the checkpoint again")
    assert not list(tmp_path.glob("target*"))


def test_a_failure_after_writing_leaves_no_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4v_core.model import conversion

    write = conversion._write_tensors

    def lose_one(tensors: dict, *rest: object) -> None:
        write(dict(list(tensors.items())[1:]), *rest)

    monkeypatch.setattr(conversion, "_write_tensors", lose_one)
    _check_refused(source, "target.partial: lacks 1 of the model's 80 tensors")


def test_an_interrupted_conversion_leaves_no_folder(source: Path, tmp_path: Path) -> None:
    from s4v_core.model.conversion import convert

    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "target", None, interrupt)
    assert not list(tmp_path.glob("target*"))
