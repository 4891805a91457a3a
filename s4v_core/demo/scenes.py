"""Drawn scenes: one to four coloured shapes with size and place, the same for the same seed.

Invents and paints scenes; `texts.py` describes them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 40, 40),
    "green": (45, 140, 60),
    "blue": (35, 80, 200),
    "yellow": (240, 200, 40),
    "purple": (125, 55, 160),
    "orange": (240, 120, 20),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 0.10, "large": 0.175}
"""Half the width of a shape, as a share of the scene's side."""

PLACES = {
    "top left": (0.27, 0.27),
    "top right": (0.73, 0.27),
    "bottom left": (0.27, 0.73),
    "bottom right": (0.73, 0.73),
}
"""Centres of shapes as shares of the side: x from the left, y from the top."""

BACKGROUNDS = {
    "white": (245, 245, 245),
    "grey": (150, 150, 150),
    "black": (25, 25, 25),
    "pink": (250, 190, 200),
}
SIDE_PX = 224
"""Side of a picture."""

_OVERSAMPLING = 2  # scenes are drawn larger and scaled down, which smooths the edges
_SHIFT = 0.03  # largest displacement, as a share of the side
_GROWTH = 0.08  # largest change of size, as a share of it
_TINT = 8  # largest change of a colour, in levels per channel
_NOISE = 6.0  # standard deviation in levels


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape of a scene, as keys of SIZES, COLOURS, SHAPES and PLACES."""

    size: str
    colour: str
    shape: str
    place: str


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a picture; shapes in reading order, at most one per place."""

    background: str
    shapes: tuple[Shape, ...]


def draw_scenes(seed: int) -> Iterator[tuple[Scene, Image.Image]]:
    """Yield scenes with their pictures (RGB, SIDE_PX x SIDE_PX), without end."""
    chance = random.Random(seed)
    while True:
        scene = invent_scene(chance)
        yield scene, _add_noise(paint_scene(scene, chance), chance.getrandbits(32))


def invent_scene(chance: random.Random) -> Scene:
    """Draw the content of a scene at random."""
    places = sorted(chance.sample(list(PLACES), chance.randint(1, 4)), key=list(PLACES).index)
    shapes = tuple(
        Shape(
            chance.choice(list(SIZES)), chance.choice(list(COLOURS)), chance.choice(SHAPES), place
        )
        for place in places
    )
    return Scene(chance.choice(list(BACKGROUNDS)), shapes)


def paint_scene(scene: Scene, chance: random.Random, side_px: int = SIDE_PX) -> Image.Image:
    """A picture of a scene without noise; places, sizes and colours vary a little by chance."""
    side = side_px * _OVERSAMPLING
    image = Image.new("RGB", (side, side), _tint(BACKGROUNDS[scene.background], chance))
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        x, y = (side * (p + chance.uniform(-_SHIFT, _SHIFT)) for p in PLACES[shape.place])
        half = side * SIZES[shape.size] * (1 + chance.uniform(-_GROWTH, _GROWTH))
        box = (x - half, y - half, x + half, y + half)
        _draw_shape(pen, shape.shape, box, _tint(COLOURS[shape.colour], chance))
    return image.resize((side_px, side_px), Image.Resampling.BILINEAR)


def _tint(colour: tuple[int, int, int], chance: random.Random) -> tuple[int, ...]:
    return tuple(min(max(level + chance.randint(-_TINT, _TINT), 0), 255) for level in colour)


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, box: tuple[float, ...], colour: tuple[int, ...]
) -> None:
    left, top, right, bottom = box
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=colour)
    else:
        pen.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=colour)


def _add_noise(image: Image.Image, seed: int) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32) * _NOISE
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
