"""Scenes as the demo painter learns them: pictures as latents, and the facts that prompts state."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from s4v_core.demo.painter_model import SIDE_PX
from s4v_core.demo.patch_codec import PatchCodec
from s4v_core.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    invent_scene,
    paint_scene,
)

_CODEC_SCENES = 3000
"""Pictures from which the codec's directions are found."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """Scenes and their latents (scene, channels, height, width), in the same order."""

    scenes: list[Scene]
    latents: torch.Tensor
    codec: PatchCodec


@dataclass(frozen=True, slots=True)
class Facts:
    """The content of scenes, as class numbers.

    Attributes:
        places: (scene, place, 3): size, colour and shape, counted from 1; 0 for an empty place.
        backgrounds: (scene,).
    """

    places: torch.Tensor
    backgrounds: torch.Tensor


def draw_lessons(count: int, seed: int) -> Lessons:
    """Draw scenes and encode them; the codec is fitted to the first of them."""
    chance = random.Random(f"lessons/{seed}")
    scenes, pictures = [], np.empty((count, 3, SIDE_PX, SIDE_PX), np.uint8)
    for at in range(count):
        scene = invent_scene(chance)
        picture = np.asarray(paint_scene(scene, chance, SIDE_PX))
        scenes.append(scene)
        pictures[at] = picture.transpose(2, 0, 1)
    codec = PatchCodec()
    codec.fit(_scale(pictures[:_CODEC_SCENES]))
    with torch.no_grad():
        parts = [codec.encode(_scale(pictures[at : at + 500])) for at in range(0, count, 500)]
    return Lessons(scenes, torch.cat(parts), codec)


def list_facts(scenes: Sequence[Scene]) -> Facts:
    """The facts of scenes, which the text encoder learns to read out of their prompts."""
    places = torch.zeros(len(scenes), len(PLACES), 3, dtype=torch.long)
    numbers = {name: at for at, name in enumerate(PLACES)}
    kinds = (list(SIZES), list(COLOURS), list(SHAPES))
    for at, scene in enumerate(scenes):
        for shape in scene.shapes:
            named = (shape.size, shape.colour, shape.shape)
            found = [1 + kind.index(name) for kind, name in zip(kinds, named, strict=True)]
            places[at, numbers[shape.place]] = torch.tensor(found)
    known = list(BACKGROUNDS)
    return Facts(places, torch.tensor([known.index(scene.background) for scene in scenes]))


def _scale(pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> torch.Tensor:
    return torch.from_numpy(pictures).float() / 127.5 - 1
