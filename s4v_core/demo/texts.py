"""Texts about a scene: exact captions, brief captions, and questions with their answers."""

import random
import re

from s4v_core import prompts
from s4v_core.chat import IMAGE, VICUNA_V1
from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, invent_scene

NUMBERS = ("no", "one", "two", "three", "four")
BRIEF = "Describe the image briefly."
"""Prompt for a brief caption."""

PHRASES = (VICUNA_V1.system.strip(), prompts.CAPTION)
"""Texts that occur in every sample; each is one token of the demo's tokenizer."""

_SHAPE_SENTENCE = re.compile(
    rf"At the ({'|'.join(PLACES)}) is a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)})"
    rf" ({'|'.join(SHAPES)})\."
)
_BACKGROUND_PHRASE = re.compile(rf" on a ({'|'.join(BACKGROUNDS)}) background\.")


def write_caption(scene: Scene) -> str:
    """The exact caption: everything in the scene, in reading order."""
    count = len(scene.shapes)
    noun = "shape" if count == 1 else "shapes"
    parts = [f"The image shows {NUMBERS[count]} {noun} on a {scene.background} background."]
    parts += [f"At the {s.place} is a {s.size} {s.colour} {s.shape}." for s in scene.shapes]
    return " ".join(parts)


def write_brief_caption(scene: Scene) -> str:
    """A caption with only shapes and colours."""
    shapes = [f"{'an' if s.colour == 'orange' else 'a'} {s.colour} {s.shape}" for s in scene.shapes]
    return f"{_join_words(shapes)}.".capitalize()


def write_questions(scene: Scene, chance: random.Random) -> list[tuple[str, str]]:
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


def read_attributes(text: str) -> dict[str, str]:
    """The facts in a caption: `background`, and `<place> size`, `<place> colour` and
    `<place> shape` for each place.

    Other text is ignored.
    """
    found = {
        f"{place} {name}": value
        for place, *values in _SHAPE_SENTENCE.findall(text)
        for name, value in zip(("size", "colour", "shape"), values, strict=True)
    }
    background = _BACKGROUND_PHRASE.search(text)
    return found | ({"background": background[1]} if background else {})


def build_corpus() -> list[str]:
    """Texts to train a tokenizer on, with every word of scenes, prompts and templates."""
    chance = random.Random(0)
    corpus = [VICUNA_V1.render(prompts.CAPTION).replace(IMAGE, ""), BRIEF]
    for _ in range(2000):
        scene = invent_scene(chance)
        turns = [text for turn in write_questions(scene, chance) for text in turn]
        captions = (write_caption(scene), write_brief_caption(scene))
        corpus += [f" {text}" for text in (*captions, *turns)]
    return corpus * 2


def _join_words(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
