"""SDXL, Stable Diffusion 3 and Flux, with random weights: the engine draws with each of them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from s4v_core.errors import ConfigError
from tests.engines.painter_engine import ask, choose, draw, make_request, open_engine
from tests.synthesis.current_painters import FAMILIES, save_painter
from tests.synthesis.tiny_painter import BATCH, PAINTING


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family: str = request.param
    return save_painter(family, tmp_path_factory.mktemp("painters") / family)


def test_a_picture_does_not_depend_on_its_batch(model: Path) -> None:
    with open_engine(choose(model)) as engine:
        together = draw(engine, range(6))
        assert draw(engine, list(reversed(range(6)))) == together
        assert draw(engine, [5]) == {5: together[5]}
    assert len(set(together.values())) == 6, "every number has a picture of its own"


def test_the_engine_draws_what_the_pipeline_draws(model: Path) -> None:
    from diffusers import DiffusionPipeline

    with open_engine(choose(model)) as engine:
        drawn = [ask(engine, make_request(number)).drawing for number in range(BATCH)]
    pipeline: Any = DiffusionPipeline.from_pretrained(model, use_safetensors=True)
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
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(one.png))), np.asarray(picture))


def test_prompt_steps_and_guidance_change_the_picture(model: Path) -> None:
    with open_engine(choose(model)) as engine:
        before = draw(engine, [0])[0]
        drawing = ask(engine, make_request(0, "large blue square")).drawing
        assert drawing
        assert drawing.png != before
    for change in ({"steps": 3}, {"guidance": 7.0}):
        with open_engine(choose(model, PAINTING.replace(**change))) as engine:
            assert draw(engine, [0])[0] != before, change


def test_a_negative_prompt_is_used_or_refused_by_name(model: Path) -> None:
    painting = PAINTING.replace(negative_prompt="large blue square")
    with open_engine(choose(model)) as engine:
        before = draw(engine, [0])
    if model.name == "flux":
        with (
            pytest.raises(ConfigError, match="no use of a negative prompt"),
            open_engine(choose(model, painting)),
        ):
            pass
        return
    with open_engine(choose(model, painting)) as engine:
        assert draw(engine, [0]) != before
