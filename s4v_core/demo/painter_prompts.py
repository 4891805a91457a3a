"""Prompts for the demo painter: comma-separated keywords that say what a scene holds."""

import random

from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Shape

_FILLERS = (
    "highly detailed",
    "intricate",
    "4k",
    "8k",
    "high resolution",
    "realistic",
    "abstract",
    "simple",
    "flat",
    "clean",
    "sharp",
    "soft light",
    "bright",
    "geometric shapes",
)
"""Keywords of other painters, which say nothing about a scene."""

_FILLED_SHARE, _FOCUSED_SHARE = 0.15, 0.5
"""Shares of varied prompts with a filler, and with one part in double brackets."""


def write_scene_prompt(scene: Scene) -> str:
    """The plain prompt: small green square top right, ..., white background."""
    parts = [_describe(shape) for shape in scene.shapes]
    return ", ".join([*parts, f"{scene.background} background"])


def vary_scene_prompt(scene: Scene, chance: random.Random) -> str:
    """A prompt that says the same in another order, with brackets around a part of it at times:
    the keyword that a dialogue is about comes first, in double brackets."""
    parts = [_describe(shape) for shape in scene.shapes]
    chance.shuffle(parts)
    background = f"{scene.background} background"
    parts.insert(0 if chance.random() < 0.15 else len(parts), background)
    if chance.random() < _FOCUSED_SHARE:
        parts = _focus(parts, chance)
    if chance.random() < _FILLED_SHARE:
        parts.insert(chance.randint(1, len(parts)), chance.choice(_FILLERS))
    return ", ".join(parts)


def list_painter_words() -> list[str]:
    """Every word of these prompts; each without digits is one token of the painter's tokenizer."""
    texts = [*SIZES, *COLOURS, *SHAPES, *PLACES, *BACKGROUNDS, "background", *_FILLERS]
    marks = ["((", "))", ")),", ",", "."]
    return [*dict.fromkeys(word for text in texts for word in text.split()), *marks]


def _describe(shape: Shape) -> str:
    return f"{shape.size} {shape.colour} {shape.shape} {shape.place}"


def _focus(parts: list[str], chance: random.Random) -> list[str]:
    """Put brackets around some words of one part, and that part first, mostly."""
    chosen = chance.randrange(len(parts))
    words = parts[chosen].split()
    start = chance.randrange(len(words))
    end = chance.randint(start + 1, len(words))
    before, inside, behind = words[:start], words[start:end], words[end:]
    focused = " ".join([*before, f"(({' '.join(inside)}))", *behind])
    others = parts[:chosen] + parts[chosen + 1 :]
    at = 0 if chance.random() < 0.7 else chosen
    return [*others[:at], focused, *others[at:]]
