"""Image prompts of drawn scenes: ((small green square top right)), ..., white background."""

import re
from collections.abc import Iterable

from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Shape
from s4v_core.synthesis.parsing import strip_brackets

_SHAPE = re.compile(
    rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(PLACES)})"
)
_BACKGROUND = re.compile(rf"({'|'.join(BACKGROUNDS)}) background")


def write_prompt(main: Shape, others: Iterable[Shape], background: str) -> str:
    """The prompt of a scene, with one of its shapes in brackets."""
    parts = [f"(({_describe(main)}))", *map(_describe, others), f"{background} background"]
    return ", ".join(parts)


def find_shape(text: str) -> Shape | None:
    """The first shape that a text describes."""
    found = _SHAPE.search(text)
    return Shape(*found.groups()) if found else None


def read_scene(prompt: str) -> Scene:
    """The scene that a prompt describes; white where it says nothing of the background."""
    plain = strip_brackets(prompt)
    by_place: dict[str, Shape] = {}
    for words in _SHAPE.findall(plain):
        by_place.setdefault(words[3], Shape(*words))
    background = _BACKGROUND.search(plain)
    shapes = tuple(by_place[place] for place in PLACES if place in by_place)
    return Scene(background[1] if background else next(iter(BACKGROUNDS)), shapes)


def _describe(shape: Shape) -> str:
    return f"{shape.size} {shape.colour} {shape.shape} {shape.place}"
