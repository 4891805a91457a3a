"""Questions about a scene as benchmarks ask them: pairs of yes and no, and options by letter."""

import random
from collections.abc import Sequence

from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene
from s4v_core.demo.texts import NUMBERS
from s4v_core.prompts.instructions import LETTER, SHORT

Pair = tuple[str, str]
"""A question whose answer is yes, and one whose answer is no."""

Choice = tuple[str, str, list[str]]
"""A category, a question, and its options, the right one first."""


def write_exam(scene: Scene, chance: random.Random) -> list[tuple[str, str]]:
    """A question to be answered by yes or no, and one by a letter, with their answers."""
    pair = chance.choice(list(write_pairs(scene, chance).values()))
    is_no = chance.random() < 0.5
    _, question, options = chance.choice(write_choices(scene, chance))
    turned = chance.sample(options, len(options))
    lines = [f"{letter}. {text}" for letter, text in zip("ABCD", turned, strict=True)]
    return [
        (f"{pair[is_no]}\n{SHORT}", "No" if is_no else "Yes"),
        ("\n".join([question, *lines, LETTER]), "ABCD"[turned.index(options[0])]),
    ]


def write_pairs(scene: Scene, chance: random.Random) -> dict[str, Pair]:
    """A pair of questions for each of four of MME's tasks."""
    one, count = chance.choice(scene.shapes), len(scene.shapes)
    known = {(shape.colour, shape.shape) for shape in scene.shapes}
    absent = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in known]
    colour, shape = chance.choice(absent)
    other_count = chance.choice([n for n in range(1, len(NUMBERS)) if n != count])
    # The place of a shape like this one is no answer either.
    taken = {s.place for s in scene.shapes if (s.colour, s.shape) == (one.colour, one.shape)}
    place = chance.choice([name for name in PLACES if name not in taken])
    background = chance.choice([name for name in BACKGROUNDS if name != scene.background])
    name = f"{one.colour} {one.shape}"
    return {
        "existence": (f"Is there a {name}?", f"Is there a {colour} {shape}?"),
        "count": (_ask_count(count), _ask_count(other_count)),
        "position": (f"Is the {name} at the {one.place}?", f"Is the {name} at the {place}?"),
        "color": (
            f"Is the background {scene.background}?",
            f"Is the background {background}?",
        ),
    }


def _ask_count(count: int) -> str:
    return "Is there one shape?" if count == 1 else f"Are there {NUMBERS[count]} shapes?"


def write_choices(scene: Scene, chance: random.Random) -> list[Choice]:
    """Three questions with four options each."""
    one = chance.choice(scene.shapes)
    counts, count = list(NUMBERS[1:]), NUMBERS[len(scene.shapes)]
    things = [f"{size} {c} {s}" for size in SIZES for c in COLOURS for s in SHAPES]
    thing = f"{one.size} {one.colour} {one.shape}"
    return [
        ("counting", "How many shapes are there?", _put_first(count, counts, chance)),
        (
            "colour",
            "Which colour is the background?",
            _put_first(scene.background, list(BACKGROUNDS), chance),
        ),
        ("place", f"What is at the {one.place}?", _put_first(thing, things, chance)),
    ]


def _put_first(right: str, known: Sequence[str], chance: random.Random) -> list[str]:
    """The right option and three others."""
    return [right, *chance.sample([one for one in known if one != right], 3)]
