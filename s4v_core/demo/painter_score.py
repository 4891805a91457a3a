"""Scores a painter of drawn scenes: the demo captioner says what its pictures show."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from s4v_core import prompts
from s4v_core.chat import VICUNA_V1
from s4v_core.demo.painter_model import SIDE_PX, load_painter
from s4v_core.demo.painter_prompts import write_scene_prompt
from s4v_core.demo.scenes import SIDE_PX as CAPTIONED_PX
from s4v_core.demo.scenes import Scene, invent_scene
from s4v_core.demo.score import Score, score_captions
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.demo.texts import write_caption

STEPS, GUIDANCE = 12, 1.5
"""With which the demo painter draws best."""

_BATCH = 20


def score_painter(model: Path, count: int, steps: int = STEPS, guidance: float = GUIDANCE) -> Score:
    """Draw scenes that no lesson was made of, and compare their captions with their prompts."""
    chance = random.Random("scored")
    scenes = [invent_scene(chance) for _ in range(count)]
    pictures = list(_draw(model, scenes, steps, guidance))
    captions = _caption(pictures)
    return score_captions(zip(map(write_caption, scenes), captions, strict=True))


def _draw(model: Path, scenes: list[Scene], steps: int, guidance: float) -> Iterator[Image.Image]:
    pipeline = load_painter(model)
    for start in range(0, len(scenes), _BATCH):
        batch = scenes[start : start + _BATCH]
        draws = [torch.Generator().manual_seed(start + at) for at in range(len(batch))]
        yield from pipeline(
            [write_scene_prompt(scene) for scene in batch],
            height=SIDE_PX,
            width=SIDE_PX,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=draws,
        ).images


def _caption(pictures: list[Image.Image]) -> Iterator[str]:
    processor: Any = AutoProcessor.from_pretrained(CAPTIONER)
    model: Any = LlavaForConditionalGeneration.from_pretrained(CAPTIONER, dtype=torch.float32)
    text = VICUNA_V1.render(prompts.CAPTION)
    size = (CAPTIONED_PX, CAPTIONED_PX)
    for start in range(0, len(pictures), _BATCH):
        batch = [one.convert("RGB").resize(size) for one in pictures[start : start + _BATCH]]
        inputs = processor(
            images=batch, text=[text] * len(batch), return_tensors="pt", padding=True
        )
        with torch.inference_mode():
            found = model.eval().generate(**inputs, max_new_tokens=110, do_sample=False)
        for answer in found[:, inputs["input_ids"].shape[1] :]:
            yield str(processor.decode(answer, skip_special_tokens=True)).strip()
