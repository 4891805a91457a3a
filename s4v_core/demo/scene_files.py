"""Writes drawn scenes to tar shards, to caption them or, with conversations, to train on them."""

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from s4v_core import prompts
from s4v_core.chat import IMAGE
from s4v_core.demo import texts
from s4v_core.demo.exam import write_exam
from s4v_core.demo.scenes import Scene, draw_scenes
from s4v_core.inputs.tar import add_member

_CAPTIONED_SEED = 1_000_000
"""Seed of the scenes to caption. Seeds of lessons start at 0, so that no scene is in both."""

_LESSONS_PER_SHARD = 1000


def write_scenes(
    folder: Path, count: int, seed: int = _CAPTIONED_SEED, per_shard: int = 32
) -> None:
    """Write scenes as WebDataset shards: `00000000.jpg` with its caption in `00000000.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = enumerate(islice(draw_scenes(seed), count))
    for shard, scenes in enumerate(_split_batches(numbered, per_shard)):
        _write_shard(folder / f"{shard:05d}.tar", scenes)


def write_lessons(folder: Path, count: int, seed: int) -> None:
    """Write scenes as shards, and conversations about them as LLaVA JSON.

    captions.json: The captioner's instruction and an exact caption.
    briefs.json: A request for a brief caption and the caption.
    questions.json: Questions with their answers, two of them in the form of benchmarks.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    shards = range(-(-count // _LESSONS_PER_SHARD))
    parts = [
        (partial, n, min(_LESSONS_PER_SHARD, count - n * _LESSONS_PER_SHARD), seed) for n in shards
    ]
    # Drawing takes 5 to 10 ms per scene, so a single process would need minutes.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        scenes = [scene for part in pool.map(_write_lesson_shard, parts) for scene in part]
    chance = random.Random(seed)
    lessons: dict[str, Callable[[Scene], list[tuple[str, str]]]] = {
        "captions": lambda s: [(prompts.CAPTION, texts.write_caption(s))],
        "briefs": lambda s: [(texts.BRIEF, texts.write_brief_caption(s))],
        "questions": lambda s: _write_turns(s, chance),
    }
    for name, write_turns in lessons.items():
        records = [_build_record(key, write_turns(scene)) for key, scene in scenes]
        (partial / f"{name}.json").write_text(json.dumps(records, indent=0))
    partial.rename(folder)


def _write_turns(scene: Scene, chance: random.Random) -> list[tuple[str, str]]:
    """Questions in any order: a model that always hears the same one first learns to answer that
    one, whatever it is asked."""
    turns = texts.write_questions(scene, chance) + write_exam(scene, chance)
    return chance.sample(turns, len(turns))


def _write_lesson_shard(part: tuple[Path, int, int, int]) -> list[tuple[str, Scene]]:
    folder, number, count, seed = part
    # These seeds stay below _CAPTIONED_SEED.
    drawn = islice(draw_scenes(seed * 1000 + number), count)
    numbered = [(number * _LESSONS_PER_SHARD + at, drawing) for at, drawing in enumerate(drawn)]
    _write_shard(folder / f"{number:05d}.tar", numbered)
    return [(f"{number:05d}/{at:08d}", scene) for at, (scene, _) in numbered]


def _build_record(key: str, questions: list[tuple[str, str]]) -> dict[str, Any]:
    turns = []
    for number, (question, answer) in enumerate(questions):
        mark = f"{IMAGE}\n" if number == 0 else ""
        turns.append({"from": "human", "value": mark + question})
        turns.append({"from": "gpt", "value": answer})
    return {"id": key, "image": f"{key}.jpg", "conversations": turns}


def _write_shard(path: Path, scenes: list[tuple[int, Any]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (scene, image) in scenes:
            add_member(tar, f"{number:08d}.jpg", encode_jpeg(image))
            add_member(tar, f"{number:08d}.txt", texts.write_caption(scene).encode())


def encode_jpeg(image: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=92)
    return sink.getvalue()


def _split_batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(islice(items, size)):
        yield part
