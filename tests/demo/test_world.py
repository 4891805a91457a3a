import io
import json
import random
import re
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from s4v_core.demo.world.captions import SOURCES, write_exact
from s4v_core.demo.world.files import write_exam, write_lessons
from s4v_core.demo.world.lessons import FILES
from s4v_core.demo.world.painting import SIDE_PX, paint_view
from s4v_core.demo.world.questions import list_facts
from s4v_core.demo.world.views import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    PLACES,
    SHAPES,
    View,
    invent_views,
)
from s4v_core.evaluation.catalogue import find_benchmark
from s4v_core.evaluation.data_places import find_data, place_images
from s4v_core.evaluation.scoring import read_questions
from s4v_core.model.builders import build_new_model, build_tokenizer, build_world_config
from s4v_core.training.new_models import NEW_MODELS
from s4v_core.training.stage import NEW_WORLD, NEW_WORLD_LARGE

_NAMED = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")


def _draw(count: int, seed: int = 3, is_exam: bool = False) -> list[View]:
    return [view for view, _ in islice(invent_views(seed, is_exam), count)]


def _list_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_lessons(str(tmp_path / name / "set"), 12, seed=5)
        write_exam(str(tmp_path / name / "exam"), 6, seed=5)
    assert _list_files(tmp_path / "a") == _list_files(tmp_path / "b")


def test_lessons_have_no_held_out_pair_and_every_view_of_an_exam_has_one(tmp_path: Path) -> None:
    write_lessons(str(tmp_path / "set"), 300, seed=1)
    for name in FILES:
        named = set(_NAMED.findall((tmp_path / "set" / f"{name}.json").read_text()))
        assert named, name
        assert not named & HELD_OUT, name
    for view in _draw(100, is_exam=True):
        pairs = [(thing.colour, thing.shape) in HELD_OUT for thing in view.things]
        assert sum(pairs) == 1
        assert (view.focus.colour, view.focus.shape) in HELD_OUT


def test_the_picture_shows_the_colours_that_the_view_has() -> None:
    for view, seed in islice(invent_views(11), 60):
        pixels = np.asarray(Image.open(io.BytesIO(paint_view(view, seed))).convert("RGB"), int)
        assert pixels.shape == (SIDE_PX, SIDE_PX, 3)
        for thing in view.things:
            if thing.texture != "plain":
                continue
            x, y = (int(at * SIDE_PX) for at in PLACES[thing.place])
            middle = pixels[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))
            assert np.abs(middle - COLOURS[thing.colour]).max() < 30
        corner = pixels[:3, :3].mean(axis=(0, 1))
        assert np.abs(corner - BACKGROUNDS[view.background]).max() < 60


def test_textures_letters_and_sizes_change_the_picture() -> None:
    from dataclasses import replace

    view, seed = next((v, s) for v, s in invent_views(2) if v.sign and v.focus.texture == "plain")
    seen = {paint_view(view, seed)}
    for changes in ({"texture": "striped"}, {"texture": "hollow"}, {"shape": "cross"}):
        things = tuple(replace(t, **changes) if t == view.focus else t for t in view.things)
        seen.add(paint_view(replace(view, things=things), seed))
    assert view.sign
    other = "T" if view.sign.letter != "T" else "K"
    seen.add(paint_view(replace(view, sign=replace(view.sign, letter=other)), seed))
    assert len(seen) == 5


def test_the_exact_caption_answers_what_is_asked() -> None:
    chance = random.Random(0)
    for view in _draw(200):
        caption = write_exact(view, chance)
        for thing in view.things:
            for fact in list_facts(view, thing):
                assert fact.answer not in fact.others
                if fact.kind in ("count", "scene", "text", "existence"):
                    assert re.search(rf"\b{fact.answer}\b", caption), (fact, caption)


def test_sources_differ_in_what_they_say() -> None:
    chance, views = random.Random(0), _draw(300)
    texts = {name: [write(view, chance) for view in views] for name, write in SOURCES.items()}
    lengths = {name: np.mean([len(text) for text in found]) for name, found in texts.items()}
    assert lengths["noisy"] < lengths["brief"] < lengths["imagined"]
    assert lengths["imagined"] == pytest.approx(lengths["teacher"], rel=0.05)
    # An imagined caption has the right shapes and colours at the right places, and is wrong beyond.
    right = sum(a == b for a, b in zip(texts["imagined"], texts["teacher"], strict=True))
    assert right < 0.05 * len(views)
    for text, exact in zip(texts["imagined"], texts["teacher"], strict=True):
        assert _NAMED.findall(text) == _NAMED.findall(exact)
    wrong = sum(
        not all(pair in {(t.colour, t.shape) for t in view.things} for pair in _NAMED.findall(text))
        for view, text in zip(views, texts["noisy"], strict=True)
    )
    assert 0.05 < wrong / len(views) < 0.3


def test_an_exam_is_read_as_three_benchmarks_with_all_their_pictures(tmp_path: Path) -> None:
    folder = str(tmp_path / "exam")
    write_exam(folder, 15, seed=4)
    for name, least in (("mme", 100), ("mmbench", 40), ("vqav2", 45)):
        benchmark = find_benchmark(name)
        data = find_data(folder, benchmark, is_only=False)
        questions = read_questions(benchmark, data)
        assert len(questions) >= least, name
        places = place_images(benchmark, questions, data, None, str(tmp_path / "run"))
        assert not [place for place in places if place.problem], name
        for question in questions:
            answer = question.gold or question.humans[0]
            assert benchmark.mark(question, str(answer)).official == 1.0, question


def test_records_name_the_pictures_of_their_shards(tmp_path: Path) -> None:
    write_lessons(str(tmp_path / "teacher"), 8, seed=1)
    with tarfile.open(tmp_path / "teacher" / "teacher-00000.tar") as tar:
        names = {f"teacher-00000/{name}" for name in tar.getnames()}
    for name in ("teacher", "mixture"):
        records = json.loads((tmp_path / "teacher" / f"{name}.json").read_text())
        assert {record["image"] for record in records} == names
    talk = json.loads((tmp_path / "teacher" / "talk.json").read_text())
    assert not any("image" in record or "<image>" in str(record) for record in talk)


def test_a_new_model_of_the_world_starts_with_a_head_that_repeats_words(tmp_path: Path) -> None:
    assert all(NEW_MODELS[name].repeats_words for name in (NEW_WORLD, NEW_WORLD_LARGE))
    tokenizer = build_tokenizer(["a red circle"], vocabulary=300)
    config = build_world_config(tokenizer, is_large=False)
    build_new_model(tmp_path, 0, config, tokenizer, repeats_words=True)
    weights = load_file(tmp_path / "model.safetensors")
    head, embedding = (
        next(value for key, value in weights.items() if key.endswith(ending))
        for ending in ("lm_head.weight", "embed_tokens.weight")
    )
    assert head.float().abs().max() > 0
    assert (head == embedding).all()
