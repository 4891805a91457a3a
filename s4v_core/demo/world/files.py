"""Writes sets of views: lessons as tar shards with records, and exams as three benchmarks have
their files."""

import base64
import io
import json
import random
import tarfile
from collections.abc import Sequence
from itertools import islice
from typing import Any

from s4v_core import storage
from s4v_core.demo.world.captions import NUMBERS
from s4v_core.demo.world.lessons import FILES, write_records
from s4v_core.demo.world.painting import paint_view
from s4v_core.demo.world.questions import Fact, list_facts
from s4v_core.demo.world.views import View, invent_views
from s4v_core.inputs.tar import add_member

_PER_SHARD = 1000
_PAIRS, _CHOICES, _OPEN = 4, 1, 3
"""Questions about a view of an exam, by form."""

_TASKS = {
    "existence": "existence",
    "count": "count",
    "position": "position",
    "colour": "color",
    "texture": "artwork",
    "size": "posters",
    "text": "OCR",
    "scene": "scene",
}
"""MME's task that stands for a kind of fact."""

_MME = "Please answer yes or no."
_COLUMNS = ("index", "question", "hint", *"ABCD", "answer", "category", "image", "l2-category")
_ROTATION = 1_000_000
_HUMANS = 10
"""People that answered a question of VQAv2."""


def write_lessons(folder: str, count: int, seed: int) -> None:
    """Write views as tar shards with their exact captions, and records about them; NAME.json for
    every name of FILES. What is there already is kept, as the same call always writes the same.
    """
    name = storage.base_name(folder)
    views: list[tuple[str, View]] = []
    drawn = islice(invent_views(seed), count)
    for shard in range(-(-count // _PER_SHARD)):
        part = list(islice(drawn, _PER_SHARD))
        keyed = [(f"{at:08d}", view) for at, (view, _) in enumerate(part)]
        pictures = [paint_view(view, paint) for view, paint in part]
        stem = f"{name}-{shard:05d}"
        storage.create(storage.join(folder, f"{stem}.tar"), _pack(pictures))
        views += [(f"{stem}/{key}", view) for key, view in keyed]
    for file in FILES:
        text = json.dumps(write_records(file, views, seed), indent=0)
        storage.create(storage.join(folder, f"{file}.json"), text.encode())


def _pack(pictures: Sequence[bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, picture in enumerate(pictures):
            add_member(tar, f"{number:08d}.jpg", picture)
    return sink.getvalue()


def write_exam(folder: str, count: int, seed: int) -> None:
    """Write questions about views with held-out pairs of colour and shape, in the layouts of MME,
    MMBench and VQAv2: FOLDER/mme, FOLDER/mmbench and FOLDER/vqav2."""
    chance = random.Random(seed)
    rows, asked = ["\t".join(_COLUMNS)], _Vqa(folder)
    for number, (view, paint) in enumerate(islice(invent_views(seed, is_exam=True), count)):
        picture = paint_view(view, paint)
        facts = list_facts(view, view.focus)
        for fact in chance.sample(facts, min(_PAIRS, len(facts))):
            _write_pair(folder, number, fact, picture, chance)
        for fact in chance.sample(facts, _CHOICES):
            rows += _write_rotations(number, fact, picture, chance)
        asked.add(number, chance.sample(facts, _OPEN), picture)
    table = storage.join(folder, "mmbench", "mmbench_dev_20230712.tsv")
    storage.create(table, ("\n".join(rows) + "\n").encode())
    asked.write()


def _write_pair(
    folder: str, number: int, fact: Fact, picture: bytes, chance: random.Random
) -> None:
    place = storage.join(folder, "mme", _TASKS[fact.kind], f"{number:05d}")
    yes, no = fact.draw_pair(chance)
    storage.create(f"{place}.jpg", picture)
    storage.create(f"{place}.txt", f"{yes} {_MME}\tYes\n{no} {_MME}\tNo\n".encode())


def _write_rotations(number: int, fact: Fact, picture: bytes, chance: random.Random) -> list[str]:
    """A row of the table for each rotation of the options; the first has them in any order."""
    options = fact.draw_options(chance)
    options = chance.sample(options, len(options))
    image = base64.b64encode(picture).decode()
    rows = []
    for shift in range(len(options)):
        turned = options[shift:] + options[:shift]
        cells = [*turned, *[""] * (4 - len(turned))]
        answer = "ABCD"[turned.index(fact.answer)]
        index = number + shift * _ROTATION
        row = (index, fact.question, "", *cells, answer, fact.kind, image, "held-out pairs")
        rows.append("\t".join(map(str, row)))
    return rows


def _normalise(fact: Fact) -> str:
    """An answer as VQAv2 was released: in lower case, and numbers as digits."""
    is_number = fact.kind == "count"
    return str(NUMBERS.index(fact.answer)) if is_number else fact.answer.lower()


class _Vqa:
    """The questions and annotations of VQAv2, whose people always agree."""

    def __init__(self, folder: str) -> None:
        self._folder = storage.join(folder, "vqav2")
        self._questions: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, number: int, facts: Sequence[Fact], picture: bytes) -> None:
        name = f"val2014/COCO_val2014_{number:012d}.jpg"
        storage.create(storage.join(self._folder, name), picture)
        for fact in facts:
            about = {"image_id": number, "question_id": len(self._questions)}
            self._questions.append({**about, "question": fact.question})
            answers = [{"answer": _normalise(fact)}] * _HUMANS
            self._annotations.append({**about, "answer_type": fact.kind, "answers": answers})

    def write(self) -> None:
        files = {
            "v2_OpenEnded_mscoco_val2014_questions.json": {"questions": self._questions},
            "v2_mscoco_val2014_annotations.json": {"annotations": self._annotations},
        }
        for name, value in files.items():
            storage.create(storage.join(self._folder, name), json.dumps(value).encode())
