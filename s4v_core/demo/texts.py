"""What is said about a scene: exact captions, brief captions, questions with their answers."""

import random
import re

from s4v_core import prompts
from s4v_core.chat import IMAGE, VICUNA_V1
from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, imagine

NUMBERS = ("no", "one", "two", "three", "four")
BRIEF = "Describe the image briefly."

PHRASES = (VICUNA_V1.system.strip(), prompts.CAPTION)
"""Said in every sample: one token each."""

_SAID = re.compile(
    rf"At the ({'|'.join(PLACES)}) is a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)})"
    rf" ({'|'.join(SHAPES)})\."
)
_GROUND = re.compile(rf" on a ({'|'.join(BACKGROUNDS)}) background\.")


def caption(scene: Scene) -> str:
    """All that is to be seen, in reading order."""
    count = len(scene.shapes)
    noun = "shape" if count == 1 else "shapes"
    parts = [f"The image shows {NUMBERS[count]} {noun} on a {scene.background} background."]
    parts += [f"At the {s.place} is a {s.size} {s.colour} {s.shape}." for s in scene.shapes]
    return " ".join(parts)


def brief_caption(scene: Scene) -> str:
    """Shapes and colours alone."""
    seen = [f"{'an' if s.colour == 'orange' else 'a'} {s.colour} {s.shape}" for s in scene.shapes]
    return f"{_listed(seen)}.".capitalize()


def questions(scene: Scene, chance: random.Random) -> list[tuple[str, str]]:
    """Questions with exact answers: count, background, one place, one thing that may be there."""
    one = chance.choice(scene.shapes)
    colour, shape = chance.choice(list(COLOURS)), chance.choice(SHAPES)
    there = any((s.colour, s.shape) == (colour, shape) for s in scene.shapes)
    return [
        ("How many shapes are there?", f"{NUMBERS[len(scene.shapes)]}.".capitalize()),
        ("Which colour is the background?", f"{scene.background}.".capitalize()),
        (f"What is at the {one.place}?", f"A {one.size} {one.colour} {one.shape}."),
        (f"Is there a {colour} {shape}?", "Yes." if there else "No."),
    ]


def attributes(text: str) -> dict[str, str]:
    """What a caption says: `background`, and per place `<place> size`, `colour` and `shape`.

    Words that are no caption of a scene say nothing.
    """
    found = {
        f"{place} {name}": value
        for place, *values in _SAID.findall(text)
        for name, value in zip(("size", "colour", "shape"), values, strict=True)
    }
    ground = _GROUND.search(text)
    return found | ({"background": ground[1]} if ground else {})


def corpus() -> list[str]:
    """Texts that hold every word of scenes, prompts and templates: what a tokenizer is made of."""
    chance = random.Random(0)
    said = [VICUNA_V1.render(prompts.CAPTION).replace(IMAGE, ""), BRIEF]
    for _ in range(2000):
        scene = imagine(chance)
        asked = [text for turn in questions(scene, chance) for text in turn]
        said += [f" {text}" for text in (caption(scene), brief_caption(scene), *asked)]
    return said * 2


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
