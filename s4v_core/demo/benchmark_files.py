"""Questions about drawn scenes in the layouts of two benchmarks: MME's pairs of yes and no, and
MMBench's options in every rotation."""

import base64
import random
import shutil
from itertools import islice
from pathlib import Path

from s4v_core.demo.exam import Choice, write_choices, write_pairs
from s4v_core.demo.scene_files import encode_jpeg
from s4v_core.demo.scenes import draw_scenes

_SEED = 2_000_000
"""Seed of these scenes. Seeds of lessons and of scenes to caption are others, so that no scene is
in two sets."""

_ROTATION = 1_000_000
_MME = "Please answer yes or no."
_COLUMNS = ("index", "question", "hint", *"ABCD", "answer", "category", "image", "l2-category")


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
