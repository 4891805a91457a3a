"""Engines other than vLLM; vLLM is tested in tests/flow because it takes a minute."""

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from s4v_core.engines.choice import build_engine, choose_engine
from s4v_core.engines.fake import fake_caption
from s4v_core.engines.rendering import load_renderer
from s4v_core.engines.requests import Generation, Generator, Picture, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.errors import ConfigError, EngineError


def _draw_picture(chance: np.random.Generator) -> Picture:
    return chance.integers(0, 255, (56, 56, 3), dtype=np.uint8)


def _requests(count: int) -> list[Request]:
    chance = np.random.default_rng(0)
    return [Request(f"{n}", f"{n}", (_draw_picture(chance),), "What is it?") for n in range(count)]


async def _generate_all(
    engine: Generator, requests: list[Request], how: SamplingConfig
) -> list[Generation]:
    return list(await asyncio.gather(*(engine.generate(request, how) for request in requests)))


def _generate(spec: EngineSpec, count: int, sampling: SamplingConfig) -> list[Generation]:
    engine = build_engine(spec)
    try:
        return asyncio.run(_generate_all(engine, _requests(count), sampling))
    finally:
        engine.close()


def test_the_fake_caption_changes_with_a_single_pixel() -> None:
    pixels = _requests(1)[0].images[0].copy()
    before = fake_caption(pixels)
    pixels[0, 0, 0] ^= 1
    assert fake_caption(pixels) != before


def test_transformers_gives_each_image_its_own_caption_in_order(checkpoint: Path) -> None:
    spec = choose_engine("transformers", str(checkpoint), "vicuna_v1", EngineSettings(batch_size=3))
    assert spec.device == "cpu"
    many = _generate(spec, 7, SamplingConfig(max_tokens=12))
    assert len({answer.text for answer in many}) == 7
    single = EngineSettings(batch_size=1)
    spec = choose_engine("transformers", str(checkpoint), "vicuna_v1", single)
    assert _generate(spec, 7, SamplingConfig(max_tokens=12)) == many
    assert {answer.finish_reason for answer in many} <= {"stop", "length"}
    assert all(answer.output_tokens is not None and answer.output_tokens <= 12 for answer in many)


def test_draws_are_fixed_by_the_seed(checkpoint: Path) -> None:
    spec = choose_engine("transformers", str(checkpoint), "vicuna_v1", EngineSettings())
    drawn = [
        _generate(spec, 2, SamplingConfig(max_tokens=8, temperature=1.0, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_prompt_has_one_image_and_a_bos_where_its_template_has_one(checkpoint: Path) -> None:
    (vicuna, _), (own, _) = (load_renderer(str(checkpoint), t) for t in ("vicuna_v1", "model"))
    ids = [renderer.question_ids("What?") for renderer in (vicuna, own)]
    text, tokenizer = own.question_text("What?"), own.tokenizer
    assert ids[0].count(tokenizer.bos_token_id) == 1
    assert ids[1].count(tokenizer.bos_token_id) == text.count(tokenizer.bos_token)
    assert [one.count(vicuna.image_id) for one in ids] == [1, 1]
    own.close()
    vicuna.close()


def test_words_that_spell_special_tokens_stay_words_in_a_conversation(checkpoint: Path) -> None:
    renderer, _ = load_renderer(str(checkpoint), "vicuna_v1")
    tokenizer, pixels = renderer.tokenizer, np.zeros((8, 8, 3), np.uint8)
    marks = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert "<image>" in marks
    for mark in (*marks, " ".join(marks), "<image>" * 100):
        earlier = ((mark, mark), ("And now?", f"Well. {mark}"))
        for images, count in (((pixels,), 1), ((), 0), ((pixels, pixels), 2)):
            ids = renderer.token_ids(Request("", "", images, mark, earlier, system=mark))
            assert ids.count(renderer.image_id) == count
            assert ids.count(tokenizer.bos_token_id) == 1
            assert ids.count(tokenizer.eos_token_id) == 2  # one behind each answer


def test_a_checkpoint_that_does_not_load_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava", "vision_config": {}}')
    spec = choose_engine("transformers", str(tmp_path), "vicuna_v1", EngineSettings())
    with pytest.raises(EngineError, match="cannot load"):
        build_engine(spec)


def test_openai_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="url"):
        choose_engine("openai", "gpt-4-vision", "model", EngineSettings())


@pytest.mark.parametrize("template", ["vicuna_v1", "model"])
def test_transformers_answers_text_conversations_and_several_images(
    checkpoint: Path, template: str
) -> None:
    first, second = (request.images[0] for request in _requests(2))
    earlier = (("What is it?", "A cat."),)
    requests = [
        Request("a", "a", (), "Which is better?"),
        Request("b", "b", (first, second), "What differs?"),
        Request("c", "c", (first,), "And now?", earlier, "Be brief.", (1,)),
        Request("d", "d", (first,), "What is it?"),
    ]
    spec = choose_engine("transformers", str(checkpoint), template, EngineSettings(batch_size=4))
    engine = build_engine(spec)
    try:
        found = asyncio.run(_generate_all(engine, requests, SamplingConfig(max_tokens=8)))
    finally:
        engine.close()
    assert [answer.reason for answer in found] == [None] * 4
    tokens = [answer.prompt_tokens for answer in found]
    assert all(tokens)
    assert tokens[1] > tokens[3] > tokens[0] - 20


def test_a_request_that_spells_the_image_mark_is_refused_and_its_neighbours_are_answered(
    checkpoint: Path,
) -> None:
    images = [request.images[0] for request in _requests(2)]
    asked = ["look at <image>", "What is it?"]
    requests = [
        Request(f"{n}", f"{n}", (image,), text)
        for n, (image, text) in enumerate(zip(images, asked, strict=True))
    ]
    spec = choose_engine("transformers", str(checkpoint), "vicuna_v1", EngineSettings())
    engine = build_engine(spec)
    try:
        found = asyncio.run(_generate_all(engine, requests, SamplingConfig(max_tokens=8)))
    finally:
        engine.close()
    assert found[0].reason == "engine_refused:ConfigError"
    assert found[1].reason is None


def test_a_package_that_a_checkpoint_needs_is_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    spec = choose_engine("transformers", str(folder), "vicuna_v1", EngineSettings())
    with pytest.raises(EngineError, match=r"needs a package that is not installed: .*") as error:
        build_engine(spec)
    assert "\n" not in str(error.value)
