"""Questions about drawn scenes in the layouts of two benchmarks: MME's pairs of yes and no, and
MMBench's options in every rotation."""

import base64
import random
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from s4v_core.demo.scene_files import encode_jpeg
from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, draw_scenes
from s4v_core.demo.texts import NUMBERS

_SEED = 2_000_000
"""Seed of these scenes. Seeds of lessons and of scenes to caption are others, so that no scene is
in two sets."""

_ROTATION = 1_000_000
_MME = "Please answer yes or no."
_COLUMNS = ("index", "question", "hint", *"ABCD", "answer", "category", "image", "l2-category")

Pair = tuple[str, str]
"""A question whose answer is yes, and one whose answer is no."""

Choice = tuple[str, str, list[str]]
"""A category, a question, and its options, the right one first."""


def write_benchmarks(folder: Path, count: int, seed: int = _SEED) -> None:
    """Write `folder`/mme and `folder`/mmbench with questions about the same scenes.

    The same count and seed always give the same files.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    chance, lines = random.Random(seed), ["\t".join(_COLUMNS)]
    for number, (scene, image) in enumerate(islice(draw_scenes(seed), count)):
        picture = encode_jpeg(image)
        for task, (yes, no) in write_pairs(scene, chance).items():
            place = partial / "mme" / task / f"{number:05d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture)
            place.with_suffix(".txt").write_text(f"{yes} {_MME}\tYes\n{no} {_MME}\tNo\n")
        choices = write_choices(scene, chance)
        for at, choice in enumerate(choices):
            lines += _write_rotations(number * len(choices) + at, choice, picture)
    (partial / "mmbench").mkdir(parents=True)
    (partial / "mmbench" / "mmbench_dev_20230712.tsv").write_text("\n".join(lines) + "\n")
    partial.rename(folder)


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


def _write_rotations(index: int, choice: Choice, picture: bytes) -> list[str]:
    """A row of the table for each rotation of the options."""
    category, question, options = choice
    image = base64.b64encode(picture).decode()
    rows = []
    for shift in range(len(options)):
        turned = options[shift:] + options[:shift]
        answer = "ABCD"[turned.index(options[0])]
        cells = (index + shift * _ROTATION, question, "", *turned, answer, category, image, "demo")
        rows.append("\t".join(map(str, cells)))
    return rows
