"""Joins Vicuna, CLIP and a projector to the start of the paper's pretraining."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoTokenizer, LlamaTokenizer, LlavaConfig

from s4v_core import recipes
from s4v_core.training.checks import check_stage
from tests.model.variants import (
    INSIDE,
    PROJECTOR,
    compare_with_reference,
    edit_config,
    edit_tensors,
    load,
    run_script,
    write_clip,
    write_language,
    write_loud,
    write_projector,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loud(tmp_path_factory.mktemp("loud") / "llava")


@pytest.fixture(scope="module")
def language(original: Path) -> Path:
    return write_language(original.with_name("vicuna"), original)


@pytest.fixture(scope="module")
def clip(original: Path) -> Path:
    return write_clip(original.with_name("clip-vit-tiny"), original)


def _join(target: Path, language: Path, clip: Path, *flags: object) -> str | None:
    return run_script(target, "--language", language, "--tower", clip, *flags)


@pytest.mark.parametrize("form", ["file", "folder", "short names"])
def test_the_joined_model_is_that_of_its_parts(
    original: Path, language: Path, clip: Path, tmp_path: Path, form: str
) -> None:
    projector = write_projector(tmp_path / "stage0" / "mm_projector.bin", original)
    if form == "short names":
        tensors = {k.removeprefix("model."): v for k, v in torch.load(projector).items()}
        torch.save(tensors, projector)
    given = projector.parent if form == "folder" else projector
    assert _join(tmp_path / "start", language, clip, "--projector", given) is None
    main, tower = load(original), load(original / "vision_tower")
    assert compare_with_reference(tmp_path / "start", main, tower)[0] < 3e-5


def test_without_a_projector_it_is_random_and_always_the_same(
    language: Path, clip: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert _join(first, language, clip) is None
    assert _join(second, language, clip) is None
    one, other = load(first), load(second)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name, fan_in in (("linear_1", 64), ("linear_2", 128)):
        weight = one[f"multi_modal_projector.{name}.weight"]
        assert weight.abs().max() <= fan_in**-0.5
        assert weight.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
    written = LlavaConfig.from_pretrained(first)
    assert written.vision_feature_select_strategy == "default"


def test_it_goes_to_the_original_layout_and_back(
    original: Path, language: Path, clip: Path, tmp_path: Path
) -> None:
    assert _join(tmp_path / "start", language, clip) is None
    assert run_script(tmp_path / "start", tmp_path / "llava") is None
    back = load(tmp_path / "llava")
    assert back.keys() - load(language).keys() == {
        f"{PROJECTOR}{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")
    }
    assert all(torch.equal(back[k], v) for k, v in load(language).items() if k in back)
    config = json.loads((tmp_path / "llava" / "config.json").read_text())
    assert (config["mm_vision_tower"], config["mm_hidden_size"]) == ("clip-vit-tiny", 64)
    assert run_script(tmp_path / "llava", tmp_path / "again") is None


def test_the_papers_pretraining_starts_from_it(
    language: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = recipes.PRETRAIN["paper"]
    monkeypatch.setenv("S4V_ROOT", str(tmp_path))
    target = Path(paper.model.replace("$S4V_ROOT", str(tmp_path)))
    assert target.name == "vicuna-7b-clip-l-336"
    target.parent.mkdir()
    assert _join(target, language, clip) is None
    learning = paper.learning.replace(vision_from=1)  # the tower here is a small one
    checked = check_stage(
        paper.replace(model=str(target), output=str(tmp_path / "out"), learning=learning)
    )
    assert checked.config.text_config.hidden_size == 128
    assert checked.collator.image_tokens == 16


@pytest.mark.parametrize("kind", ["llava", "llava_llama"])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_sentencepiece_tokenizer_gives_the_ids_of_llama(
    original: Path, tmp_path: Path, kind: str, legacy: bool
) -> None:
    source = Path(shutil.copytree(original, tmp_path / "llava"))
    (source / "tokenizer.json").unlink()
    (tmp_path / "words.txt").write_text(
        "a chat of a user USER: hi ASSISTANT: hello, it's ok\n" * 60
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words.txt"),
        model_prefix=str(source / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    edit_config(source, model_type=kind, architectures=["LlavaLlamaForCausalLM"])
    assert run_script(source, tmp_path / "ours") is None
    ours = AutoTokenizer.from_pretrained(tmp_path / "ours")
    wanted = LlamaTokenizer.from_pretrained(source)
    for text in ("USER: hi ASSISTANT:", "a\n\nb  c"):
        assert ours(text)["input_ids"] == wanted(text)["input_ids"]
    # As in training, the text behind an end is encoded on its own, and begins with a space.
    parts = [wanted(text, add_special_tokens=False)["input_ids"] for text in ("hello", "USER: ok")]
    assert ours("hello</s>USER: ok")["input_ids"] == [1, *parts[0], 2, *parts[1]]


def _as_mistral(folder: Path) -> None:
    edit_config(folder, model_type="mistral", architectures=["MistralForCausalLM"])


def _as_llava(folder: Path) -> None:
    edit_config(folder, mm_vision_tower="openai/clip")


def _with_biases(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    edit_tensors(folder, lambda tensors: tensors | {name: torch.ones(128)})


def _as_gptq(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "gptq"})


def _without_norm(folder: Path) -> None:
    edit_tensors(
        folder, lambda tensors: {k: v for k, v in tensors.items() if "model.norm" not in k}
    )


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_as_mistral, "found MistralForCausalLM .model_type mistral., allowed LlamaForCausalLM"),
        (_as_llava, "is a whole LLaVA and no language model alone; convert it as SRC"),
        (_with_biases, "holds 1 tensors that LLaVA-1.5 with a Llama has no place for"),
        (_as_gptq, r"holds quantized weights \(gptq\)"),
        (_without_norm, r"lacks 1 of the model's 80 tensors: language_model\.model\.norm\.weight"),
    ],
)
def test_a_language_model_of_another_kind_is_refused(
    language: Path, clip: Path, tmp_path: Path, spoil: object, sentence: str
) -> None:
    broken = Path(shutil.copytree(language, tmp_path / "vicuna"))
    spoil(broken)  # type: ignore[operator]
    found = _join(tmp_path / "start", broken, clip)
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(found)
    assert not list(tmp_path.glob("start*"))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"model.mm_projector.weight": (128, 64)}, "a single linear layer"),
        ({f"{PROJECTOR}0.weight": (128, 64)}, "lacks 3 of the model's 80 tensors"),
        ({f"{PROJECTOR}4.weight": (128, 128)}, r"found model.mm_projector.4.weight, allowed"),
        ({INSIDE + "vision_model.x": (1,)}, r"vision_model.x, allowed mm_projector.0"),
        (None, "is no file here; name LLaVA's mm_projector.bin"),
    ],
)
def test_a_projector_of_another_kind_is_refused(
    language: Path, clip: Path, tmp_path: Path, tensors: dict | None, sentence: str
) -> None:
    file = tmp_path / "mm_projector.bin"
    if tensors is not None:
        torch.save({name: torch.ones(shape) for name, shape in tensors.items()}, file)
    found = _join(tmp_path / "start", language, clip, "--projector", file)
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(found)
    assert not list(tmp_path.glob("start*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a"], "folders: found 1, allowed two, SRC DST"),
        (["a", "b", "--language", "v", "--tower", "c"], "found 2, allowed DST alone"),
        (["a", "--language", "v"], "tower: needed with --language"),
        (["a", "--language", "v", "--tower", "c", "--base", "d"], "base: found beside --language"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(arguments: list[str], sentence: str) -> None:
    found = run_script(*arguments)
    assert found is not None
    assert sentence in found
