"""A scanned page of 4,000 pixels: the tokens and pixels that the model's own processor gives it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded
from tests.architectures.answers import check_checkpoint
from tests.architectures.catalogue import ARCHITECTURES


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl3", "gemma3"])
def test_a_page_gets_what_the_processor_gives_the_whole_picture(name: str, tmp_path: Path) -> None:
    """Models that follow a picture's own size get all of its pixels; others get a smaller picture,
    as their processors make it smaller still."""
    ARCHITECTURES[name].build(tmp_path / name)
    checked = check_checkpoint(str(tmp_path / name), "transformers")
    page = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (4000, 2828, 1), np.uint8).repeat(3, axis=2)
    )
    file = io.BytesIO()
    page.save(file, "PNG")
    decoder = GuardedDecoder(DecodeConfig(), checked.facts.framing)
    seen = decoder.decode(file.getvalue())
    decoder.close()
    assert isinstance(seen, Decoded)
    size = (seen.pixel_width, seen.pixel_height)
    assert size == page.size or name != "qwen2_5_vl"
    processor = AutoImageProcessor.from_pretrained(tmp_path / name)
    picture = Image.frombytes("RGB", size, seen.pixels)
    ours, theirs = (processor(images=[one], return_tensors="np") for one in (picture, page))
    assert ours["pixel_values"].shape == theirs["pixel_values"].shape
    if size == page.size:
        assert np.array_equal(ours["pixel_values"], theirs["pixel_values"])
