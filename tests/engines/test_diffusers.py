"""Engine diffusers with real pipelines of random weights: pictures depend on prompt and number."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from s4v_core import storage
from s4v_core.engines.choice import build_engine, choose_painter
from s4v_core.engines.drawing import BLACK, BLANK, PaintConfig, find_flaw
from s4v_core.engines.requests import Request
from s4v_core.errors import ConfigError, EngineError
from tests.engines.painter_engine import SETTINGS, ask, choose, draw, make_request, open_engine
from tests.synthesis.tiny_painter import (
    BATCH,
    PAINTING,
    build_strict_checker,
    build_tiny_painter,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_painter(tmp_path_factory.mktemp("painter") / "model")


def test_a_picture_does_not_depend_on_its_batch(model: Path) -> None:
    with open_engine(choose(model)) as engine:
        together = draw(engine, range(10))
        assert draw(engine, list(reversed(range(10)))) == together
        assert draw(engine, [7]) == {7: together[7]}
        assert draw(engine, [9, 2, 4]) == {n: together[n] for n in (9, 2, 4)}
        assert len(set(together.values())) == 10, "every number has a picture of its own"
    with open_engine(choose(model)) as another:
        assert draw(another, [3, 8]) == {n: together[n] for n in (3, 8)}


def test_the_engine_draws_what_the_pipeline_draws(model: Path) -> None:
    from diffusers import StableDiffusionPipeline

    with open_engine(choose(model)) as engine:
        answers = [ask(engine, make_request(number)) for number in range(BATCH)]
    drawn = [answer.drawing for answer in answers]
    pipeline = StableDiffusionPipeline.from_pretrained(model, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        [make_request(number).prompt for number in range(BATCH)],
        width=32,
        height=32,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=[torch.Generator("cpu").manual_seed(one.seed) for one in drawn if one],
    ).images
    for one, picture in zip(drawn, pictures, strict=True):
        assert one
        found = Image.open(io.BytesIO(one.png))
        assert np.array_equal(np.asarray(found), np.asarray(picture))
        about = found.text  # type: ignore[attr-defined]
        assert (about["seed"], about["steps"], about["guidance"]) == (str(one.seed), "2", "2.0")
        assert about["prompt"].startswith("small red circle")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": 3}, {"guidance": 5.0}, {"negative_prompt": "blue square"}]
)
def test_every_setting_changes_the_picture(model: Path, change: dict[str, Any]) -> None:
    with open_engine(choose(model)) as engine:
        before = draw(engine, [0])
    with open_engine(choose(model, PAINTING.replace(**change))) as engine:
        assert draw(engine, [0]) != before
    spec = choose(model, PAINTING.replace(**change))
    assert spec.answer_settings != choose(model).answer_settings


def test_the_size_of_a_batch_identifies_a_run(model: Path) -> None:
    assert choose(model, batch_size=5).answer_settings != choose(model).answer_settings


def test_defaults_are_the_pipelines_own(model: Path) -> None:
    with open_engine(choose(model, PaintConfig(width=16, height=16))) as engine:
        assert (engine.steps, engine.guidance) == (50, 7.5)


def test_half_precision_draws(model: Path) -> None:
    with open_engine(choose(model, dtype="bfloat16")) as engine:
        assert draw(engine, [0, 1]) == draw(engine, [1, 0])


def test_a_safety_checker_refuses(tmp_path: Path) -> None:
    model = build_tiny_painter(tmp_path / "model", **build_strict_checker())
    with open_engine(choose(model)) as engine:
        answer = ask(engine, make_request(0))
    assert (answer.drawing, answer.reason) == (None, "engine_refused:content_filter")


def test_what_is_no_prompt_is_refused_by_name(model: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    with open_engine(choose(model)) as engine:
        assert ask(engine, make_request(0, " ")).reason == "engine_refused:empty_prompt"
        asked = Request("0", "0", (picture,), "What is it?")
        assert ask(engine, asked).reason == "engine_refused:draws_from_one_prompt"


def test_pictures_that_show_nothing_are_found() -> None:
    chance = np.random.default_rng(0)
    noisy = chance.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    assert find_flaw(Image.fromarray(noisy)) is None
    assert find_flaw(Image.new("RGB", (32, 32), "black")) == BLACK
    assert find_flaw(Image.new("RGB", (32, 32), (200, 200, 200))) == BLANK
    dotted = np.full((32, 32, 3), 255, np.uint8)
    dotted[10:14, 10:14] = 0
    assert find_flaw(Image.fromarray(dotted)) is None, "a small thing on white is a picture"


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        choose(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no model_index\.json"):
        choose(tmp_path)


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path, model: Path) -> None:
    copy = build_tiny_painter(tmp_path / "model")
    for weights in copy.glob("*/*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ConfigError, match="no weights as safetensors"):
        choose(copy)


def test_one_part_without_safetensors_is_refused(tmp_path: Path) -> None:
    copy = build_tiny_painter(tmp_path / "model")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(EngineError, match="cannot load"):
        build_engine(choose(copy))


def test_code_of_a_model_is_never_run(tmp_path: Path) -> None:
    copy = build_tiny_painter(tmp_path / "model")
    index = copy / "model_index.json"
    named = json.loads(index.read_text()) | {"unet": ["antigravity", "Thing"]}
    index.write_text(json.dumps(named))
    with pytest.raises(ConfigError, match=r"part unet is antigravity\.Thing"):
        build_engine(choose(copy))


def test_a_setting_that_the_pipeline_lacks_is_named(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings\.dtype: found 'int3'"):
        build_engine(choose(model, dtype="int3"))
    with pytest.raises(ConfigError, match=r"settings\.engine_args: .* engine diffusers cannot use"):
        choose(model, engine_args={"block_size": 32})


def test_a_pipeline_that_was_replaced_is_refused(tmp_path: Path) -> None:
    copy = build_tiny_painter(tmp_path / "model")
    spec = choose(copy)
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ConfigError, match="was replaced during the run"):
        build_engine(spec)


def test_a_pipeline_in_a_store_is_fetched(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    monkeypatch.setenv("S4V_SCRATCH", str(tmp_path))
    for file in filter(Path.is_file, model.rglob("*")):
        storage.create(f"{bucket}/tiny/{file.relative_to(model)}", file.read_bytes())
    spec = choose_painter(f"{bucket}/tiny", PAINTING, SETTINGS)
    assert (spec.revision or "").startswith("etag:")
    with open_engine(spec) as far, open_engine(choose(model)) as near:
        about = [Image.open(io.BytesIO(draw(one, [0])[0])) for one in (far, near)]
        assert np.array_equal(*map(np.asarray, about))
