"""Paints views: shapes, textures, letters, specks and noise."""

import io
import random

import numpy as np
from PIL import Image, ImageDraw

from s4v_core.demo.world.views import BACKGROUNDS, COLOURS, PLACES, SIZES, Sign, Thing, View

SIDE_PX = 56
"""Side of a picture; a model of this world sees every pixel."""

_OVERSAMPLING = 4
_SHIFT = 0.025  # largest displacement, as a share of the side
_TINT = 10  # largest change of a colour, in levels per channel
_NOISE = 5.0  # standard deviation in levels
_SPECKS = 6
_STRIPE = 0.24  # share of a shape's half width between two stripes
_RIM = 0.36  # share of a shape's half width
_PLATE = {"paper": (250, 250, 235), "ink": (15, 15, 15)}
_PIXELS = {
    "H": ("10001", "10001", "10001", "11111", "10001", "10001", "10001"),
    "K": ("10001", "10010", "10100", "11000", "10100", "10010", "10001"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "T": ("11111", "00100", "00100", "00100", "00100", "00100", "00100"),
    "X": ("10001", "10001", "01010", "00100", "01010", "10001", "10001"),
    "Z": ("11111", "00001", "00010", "00100", "01000", "10000", "11111"),
}
"""Letters as rows of dots."""

Colour = tuple[int, ...]
Box = tuple[float, float, float, float]


def paint_view(view: View, seed: int) -> bytes:
    """A view as a JPEG file; the same view and seed give the same bytes."""
    chance = random.Random(seed)
    side = SIDE_PX * _OVERSAMPLING
    image = Image.new("RGB", (side, side), _tint(BACKGROUNDS[view.background], chance))
    pen = ImageDraw.Draw(image)
    for _ in range(_SPECKS):
        x, y = (chance.randrange(side) for _ in "xy")
        pen.ellipse((x, y, x + 5, y + 5), fill=_tint((120, 120, 120), chance))
    for thing in view.things:
        _paint_thing(image, thing, chance)
    if view.sign:
        _paint_sign(pen, view.sign, chance)
    return _encode(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), chance.getrandbits(32))


def _tint(colour: tuple[int, int, int], chance: random.Random) -> Colour:
    return tuple(min(max(level + chance.randint(-_TINT, _TINT), 0), 255) for level in colour)


def _find_centre(place: str, chance: random.Random) -> tuple[float, float]:
    x, y = (
        SIDE_PX * _OVERSAMPLING * (at + chance.uniform(-_SHIFT, _SHIFT)) for at in PLACES[place]
    )
    return x, y


def _paint_thing(image: Image.Image, thing: Thing, chance: random.Random) -> None:
    x, y = _find_centre(thing.place, chance)
    half = image.width * SIZES[thing.size]
    colour = _tint(COLOURS[thing.colour], chance)
    mask = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(mask)
    _draw_shape(pen, thing.shape, x, y, half, 255)
    if thing.texture == "hollow":
        _draw_shape(pen, thing.shape, x, y, half * (1 - _RIM), 0)
    elif thing.texture == "striped":
        step = half * _STRIPE * 2
        for number in range(int(2 * half / step) + 1):
            top = y - half + number * step + step / 2
            pen.rectangle((x - half, top, x + half, top + step / 2), fill=0)
    image.paste(Image.new("RGB", image.size, colour), mask=mask)


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, half: float, fill: int
) -> None:
    box: Box = (x - half, y - half, x + half, y + half)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        corners = ((x, y - half), (x + half, y + half), (x - half, y + half))
        pen.polygon(corners, fill=fill)
    else:
        arm = half / 2.4
        pen.rectangle((x - half, y - arm, x + half, y + arm), fill=fill)
        pen.rectangle((x - arm, y - half, x + arm, y + half), fill=fill)


def _paint_sign(pen: ImageDraw.ImageDraw, sign: Sign, chance: random.Random) -> None:
    x, y = _find_centre(sign.place, chance)
    dot = 2 * _OVERSAMPLING
    width, height = 5 * dot, 7 * dot
    left, top = x - width / 2, y - height / 2
    edge = (left - dot, top - dot, left + width + dot, top + height + dot)
    pen.rectangle(edge, fill=_PLATE["paper"], outline=_PLATE["ink"], width=2)
    for row, dots in enumerate(_PIXELS[sign.letter]):
        for column, is_ink in enumerate(dots):
            if is_ink == "1":
                spot = (left + column * dot, top + row * dot)
                pen.rectangle((*spot, spot[0] + dot - 1, spot[1] + dot - 1), fill=_PLATE["ink"])


def _encode(image: Image.Image, seed: int) -> bytes:
    pixels = np.asarray(image, np.float32)
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32) * _NOISE
    noisy = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    sink = io.BytesIO()
    noisy.save(sink, "JPEG", quality=95, subsampling=0)
    return sink.getvalue()
