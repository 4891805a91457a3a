"""Pixels are normalised as the checkpoint's own processor does it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from s4v_core.errors import ConfigError
from s4v_core.model.normalisation import CLIP_NORMALISATION, read_normalisation

OTHER = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}


def test_numbers_are_those_of_the_processor(checkpoint: Path, tmp_path: Path) -> None:
    from s4v_core.training.worker.loss_module import normalise_pixels

    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.image_processor.image_mean = OTHER["image_mean"]
    processor.image_processor.image_std = OTHER["image_std"]
    processor.save_pretrained(tmp_path)
    found = read_normalisation(tmp_path)
    assert (list(found.mean), list(found.std)) == (OTHER["image_mean"], OTHER["image_std"])
    pixels = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    expected = processor.image_processor(pixels, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalise_pixels(torch.from_numpy(pixels)[None], found), expected)


@pytest.mark.parametrize(
    ("files", "mean"),
    [
        ({}, CLIP_NORMALISATION.mean),
        ({"preprocessor_config.json": {}}, CLIP_NORMALISATION.mean),
        ({"preprocessor_config.json": OTHER}, (0.5, 0.4, 0.3)),
        ({"processor_config.json": {"image_processor": OTHER}}, (0.5, 0.4, 0.3)),
        (
            {"processor_config.json": {"patch_size": 14}, "preprocessor_config.json": OTHER},
            (0.5, 0.4, 0.3),
        ),
    ],
)
def test_every_layout_of_a_processor_is_read(
    tmp_path: Path, files: dict[str, Any], mean: tuple[float, ...]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_normalisation(tmp_path).mean == mean


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_mean": [0.5]}, "allowed three numbers each"),
        ({"image_std": "0.5"}, "allowed three numbers each"),
        ({"image_std": [0.2, 0.2, None]}, "allowed three numbers each"),
        ({"do_normalize": False}, "does not normalise pixels"),
        ({"do_rescale": False}, "does not normalise pixels"),
    ],
)
def test_other_processors_are_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OTHER | change))
    with pytest.raises(ConfigError, match=sentence):
        read_normalisation(tmp_path)
