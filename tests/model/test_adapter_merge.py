"""LoRA adapters of PEFT and of LLaVA's scripts, merged, against W + scale * B @ A done here."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.model.reference import Weights
from tests.model.variants import (
    PROJECTOR,
    compare_with_reference,
    edit_config,
    edit_tensors,
    load,
    run_script,
    write_adapter,
    write_clip,
    write_language,
    write_loud,
)

RANK = 4
CHANGED = {
    "model.layers.0.self_attn.q_proj": (128, 128),
    "model.layers.1.mlp.down_proj": (128, 256),
    "model.mm_projector.2": (128, 128),
}
"""Original names of the adapted modules, and the shapes of their weights."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loud(tmp_path_factory.mktemp("loud") / "llava")


@pytest.fixture(scope="module")
def ours(original: Path) -> Path:
    target = original.with_name("ours")
    assert run_script(original, target) is None
    return target


def _as_original(name: str) -> str:
    return name


def _as_memory(name: str) -> str:
    name = name.replace("model.mm_projector.2", "model.multi_modal_projector.linear_2")
    return name.replace("model.layers.", "model.language_model.layers.")


def _as_disk(name: str) -> str:
    name = name.replace("model.mm_projector.2", "multi_modal_projector.linear_2")
    return name.replace("model.layers.", "language_model.model.layers.")


DIALECTS = {"LLaVA": _as_original, "transformers 5": _as_memory, "transformers 4": _as_disk}


def _draw_factors(modules: dict[str, tuple[int, int]], rank: int = RANK) -> Weights:
    """Factors by the module's name and the letter."""
    chance = torch.Generator().manual_seed(5)
    return {
        f"{module}.{letter}": torch.randn(shape, generator=chance) * 0.3
        for module, (rows, columns) in modules.items()
        for letter, shape in (("A", (rank, columns)), ("B", (rows, rank)))
    }


def _spell(factors: Weights, rename: Callable[[str], str], name: str = "") -> Weights:
    """Factors by PEFT's names."""
    spelled = {}
    for key, tensor in factors.items():
        module, _, letter = key.rpartition(".")
        spelled[f"base_model.model.{rename(module)}.lora_{letter}{name}.weight"] = tensor
    return spelled


def _merge(main: Weights, factors: Weights, scale: float | Callable[[str], float]) -> Weights:
    """The merged weights, in double precision and entry by entry of the rank."""
    merged = dict(main)
    for module in {key.rpartition(".")[0] for key in factors}:
        a, b = factors[f"{module}.A"].double(), factors[f"{module}.B"].double()
        change = sum(torch.outer(b[:, n], a[n]) for n in range(a.shape[0]))
        factor = scale(module) if callable(scale) else scale
        weight = main[f"{module}.weight"].double() + factor * change
        merged[f"{module}.weight"] = weight.float()
    return merged


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("base", ["ours", "original"])
def test_a_merged_model_computes_what_base_and_adapter_do(
    original: Path, ours: Path, tmp_path: Path, dialect: str, base: str
) -> None:
    factors = _draw_factors(CHANGED)
    adapter = write_adapter(tmp_path / "lora", _spell(factors, DIALECTS[dialect]))
    model = ours if base == "ours" else original
    assert run_script(adapter, tmp_path / "merged", "--base", model) is None
    main, tower = _merge(load(original), factors, 8 / RANK), load(original / "vision_tower")
    assert compare_with_reference(tmp_path / "merged", main, tower)[0] < 3e-5
    assert compare_with_reference(tmp_path / "merged", load(original), tower)[0] > 0.1
    for name in ("processor_config.json", "original_config.json", "tokenizer.json"):
        assert (tmp_path / "merged" / name).read_text() == (ours / name).read_text()


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 16}, 4.0),
        ({"use_rslora": True}, 8 / RANK**0.5),
        (
            {"alpha_pattern": {"q_proj": 2, r"layers\.1\..*": 12}},
            lambda module: {"q": 0.5, "d": 3.0, "2": 2.0}[module.rpartition(".")[2][0]],
        ),
        (
            {"r": 64, "rank_pattern": {r".*(q|down)_proj": 4, "mm_projector.2": 4}},
            2.0,
        ),
    ],
)
def test_the_scale_is_that_of_peft(
    original: Path, tmp_path: Path, settings: dict[str, Any], scale: Any
) -> None:
    factors = _draw_factors(CHANGED)
    tensors = _spell(factors, _as_original, name=".default")
    adapter = write_adapter(tmp_path / "lora", tensors, **settings)
    assert run_script(adapter, tmp_path / "merged", "--base", original) is None
    assert run_script(tmp_path / "merged", tmp_path / "back") is None
    wanted, found = _merge(load(original), factors, scale), load(tmp_path / "back")
    for module in CHANGED:
        difference = (found[f"{module}.weight"] - wanted[f"{module}.weight"]).abs().max()
        assert difference < 1e-6
    changed = {f"{module}.weight" for module in CHANGED}
    assert all(torch.equal(found[k], wanted[k]) for k in found if k not in changed)


def test_turned_factors_embeddings_and_replaced_modules(original: Path, tmp_path: Path) -> None:
    square = {"model.layers.0.self_attn.q_proj": (128, 128)}
    factors = _draw_factors(square)
    table = "model.embed_tokens.weight"
    a, b = torch.randn(RANK, 509), torch.randn(128, RANK)
    head = torch.randn(509, 128)
    tensors = _spell(factors, _as_original) | {
        "base_model.model.model.embed_tokens.lora_embedding_A": a,
        "base_model.model.model.embed_tokens.lora_embedding_B": b,
        "base_model.model.lm_head.modules_to_save.weight": head,
        "base_model.model.model.layers.0.mlp.up_proj.base_layer.weight": torch.ones(256, 128),
    }
    adapter = write_adapter(tmp_path / "lora", tensors, fan_in_fan_out=True)
    assert run_script(adapter, tmp_path / "merged", "--base", original) is None
    assert run_script(tmp_path / "merged", tmp_path / "back") is None
    found, base = load(tmp_path / "back"), load(original)
    module = next(iter(square))
    turned = base[f"{module}.weight"] + 2 * (factors[f"{module}.B"] @ factors[f"{module}.A"]).T
    assert (found[f"{module}.weight"] - turned).abs().max() < 1e-5
    assert (found[table] - base[table] - 2 * (b @ a).T).abs().max() < 1e-4
    assert torch.equal(found["lm_head.weight"], head)
    assert torch.equal(found["model.layers.0.mlp.up_proj.weight"], torch.ones(256, 128))


def test_a_half_precision_base_stays_so_and_is_rounded_once(original: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(original, tmp_path / "half"))
    edit_tensors(base, lambda main: {k: v.bfloat16() for k, v in main.items()})
    factors = _draw_factors(CHANGED)
    adapter = write_adapter(tmp_path / "lora", _spell(factors, _as_original))
    assert run_script(adapter, tmp_path / "merged", "--base", base) is None
    found = load(tmp_path / "merged")["language_model.model.layers.1.mlp.down_proj.weight"]
    exact = _merge({k: v.float() for k, v in load(base).items()}, factors, 2.0)
    wanted = exact["model.layers.1.mlp.down_proj.weight"]
    assert found.dtype == torch.bfloat16
    assert ((found.float() - wanted).abs() <= wanted.abs() * 2**-8).all()
    assert (found == wanted.bfloat16()).float().mean() > 0.999


def test_llavas_own_adapter_takes_vicuna_and_a_tower(original: Path, tmp_path: Path) -> None:
    language = write_language(tmp_path / "vicuna", original)
    clip = write_clip(tmp_path / "clip", original)
    modules = {name: shape for name, shape in CHANGED.items() if "mm_projector" not in name}
    factors = _draw_factors(modules)
    projector = {k: v for k, v in load(original).items() if k.startswith(PROJECTOR)}
    beside = {f"base_model.model.{name}": value for name, value in projector.items()}
    adapter = write_adapter(tmp_path / "lora", _spell(factors, _as_original), beside)
    shutil.copy(original / "config.json", adapter)
    edit_config(adapter, architectures=["LlavaLlamaForCausalLM"], model_type="llava_llama")
    safe = adapter / "adapter_model.safetensors"  # LLaVA's scripts save a pickled file
    torch.save(load_file(safe), adapter / "adapter_model.bin")
    safe.unlink()
    flags = ("--base", language, "--tower", clip)
    assert run_script(adapter, tmp_path / "merged", *flags) is None
    main, tower = _merge(load(original), factors, 2.0), load(original / "vision_tower")
    assert compare_with_reference(tmp_path / "merged", main, tower)[0] < 3e-5
    settings = json.loads((tmp_path / "merged" / "processor_config.json").read_text())
    assert settings["image_processor"]["do_pad"] is True  # as the adapter's config says
    (adapter / "non_lora_trainables.bin").unlink()
    found = run_script(adapter, tmp_path / "without", *flags)
    assert found is not None
    assert "brings no projector, nor does its base; name one with --projector" in found
    torch.save(projector, tmp_path / "mm_projector.bin")
    flags = (*flags, "--projector", tmp_path / "mm_projector.bin")
    assert run_script(adapter, tmp_path / "given", *flags) is None
    assert compare_with_reference(tmp_path / "given", main, tower)[0] < 3e-5


Q = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = torch.ones(RANK, 128), torch.ones(128, RANK)
PAIR = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}
UNMERGED: dict[str, tuple[Weights, dict[str, Any], str]] = {
    "IA3": (PAIR, {"peft_type": "IA3"}, "peft_type: found IA3, allowed LORA"),
    "AdaLoRA": (PAIR, {"peft_type": "ADALORA"}, "peft_type: found ADALORA, allowed LORA"),
    "prefix": (PAIR, {"peft_type": "PREFIX_TUNING"}, "found PREFIX_TUNING"),
    "DoRA": (PAIR, {"use_dora": True}, "found DoRA, which is not merged here"),
    "DoRA by its tensors": (
        PAIR | {f"{Q}.lora_magnitude_vector": torch.ones(128)},
        {},
        "found DoRA .lora_magnitude_vector.",
    ),
    "PiSSA": (PAIR, {"init_lora_weights": "pissa_niter_4"}, "found pissa_niter_4, which changed"),
    "replicated layers": (PAIR, {"layer_replication": [[0, 2]]}, "found replicated layers"),
    "rows": (PAIR, {"trainable_token_indices": [3]}, "found single rows of embeddings"),
    "no alpha": (PAIR, {"lora_alpha": None}, "lora_alpha: found None, allowed a number"),
    "one factor": ({f"{Q}.lora_A.weight": A}, {}, "one of lora_A and lora_B alone"),
    "no factors": ({f"{Q}.weight": A}, {}, "holds no factors of a LoRA"),
    "two adapters": (
        PAIR | {f"{Q}.lora_A.other.weight": A.clone()},
        {},
        "holds several adapters",
    ),
    "another rank": (PAIR, {"r": 16}, "q_proj: found rank 4, its adapter_config.json says 16"),
    "ungathered": (
        {f"{Q}.lora_A.weight": torch.ones(0), f"{Q}.lora_B.weight": torch.ones(0)},
        {},
        "it was saved incompletely",
    ),
    "another size": (
        PAIR | {f"{Q}.lora_B.weight": torch.ones(256, RANK)},
        {},
        r"made for the shape \(256, 128\), the base has \(128, 128\); it adapts another model",
    ),
    "another model": (
        {k.replace("model.layers", "model.visual.blocks"): v for k, v in PAIR.items()},
        {},
        "LLaVA-1.5 has no such place",
    ),
    "a layer that the base lacks": (
        {k.replace("layers.0", "layers.30"): v for k, v in PAIR.items()},
        {},
        "adapts language_model.model.layers.30.* which the base does not have",
    ),
    "more rows": (
        PAIR | {"base_model.model.lm_head.weight": torch.ones(600, 128)},
        {},
        r"lm_head.weight: made for the shape \(600, 128\), the base has \(512, 128\)",
    ),
}


@pytest.mark.parametrize("name", UNMERGED)
def test_an_adapter_that_cannot_be_merged_is_named(ours: Path, tmp_path: Path, name: str) -> None:
    tensors, settings, sentence = UNMERGED[name]
    adapter = write_adapter(tmp_path / "lora", tensors, **settings)
    found = run_script(adapter, tmp_path / "merged", "--base", ours)
    assert found is not None
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(found)
    assert "\n" not in found
    assert not list(tmp_path.glob("merged*"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("adapter_config.json", b"{", "adapter_config.json: is no adapter's config"),
        ("adapter_model.safetensors", b"\x00" * 99, "adapter_model.safetensors: is cut short"),
        ("adapter_model.safetensors", None, "holds no adapter_model.safetensors or adapter_model"),
        ("non_lora_trainables.bin", b"PK\x03\x04", "non_lora_trainables.bin: is cut short"),
    ],
)
def test_a_damaged_adapter_is_named(
    ours: Path, tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    adapter = write_adapter(tmp_path / "lora", PAIR)
    if content is None:
        (adapter / name).unlink()
    else:
        (adapter / name).write_bytes(content)
    found = run_script(adapter, tmp_path / "merged", "--base", ours)
    assert found is not None
    assert sentence in found
    assert not list(tmp_path.glob("merged*"))


def test_flags_that_belong_to_no_adapter_are_refused(
    original: Path, ours: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "lora", PAIR)
    for arguments, sentence in (
        ((original, "--base", ours), "is no adapter; leave out --base"),
        ((ours, "--tower", original), "is in our layout and has one"),
        ((adapter, "--base", ours, "--tower", original), "has a vision tower and projector"),
        ((adapter, "--base", adapter), "is an adapter, and no model to merge an adapter into"),
    ):
        found = run_script(arguments[0], tmp_path / "x", *arguments[1:])
        assert found is not None
        with pytest.raises(AssertionError, match=sentence):
            raise AssertionError(found)
