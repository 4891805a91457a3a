import json
import random
import re
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np

from s4v_core.demo import texts
from s4v_core.demo.benchmark_files import write_benchmarks
from s4v_core.demo.exam import write_choices, write_pairs
from s4v_core.demo.scene_files import write_lessons, write_scenes
from s4v_core.demo.scenes import COLOURS, PLACES, SIDE_PX, Scene, Shape, draw_scenes, invent_scene
from s4v_core.demo.score import score_captions
from s4v_core.prompts.instructions import LETTER, SHORT


def test_a_seed_gives_the_same_shards(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_scenes(tmp_path / name, 40, seed=3)
    for shard in ("00000.tar", "00001.tar"):
        assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()
    with tarfile.open(tmp_path / "one" / "00001.tar") as tar:
        assert len(tar.getnames()) == 16


def test_a_caption_says_what_is_painted_where() -> None:
    for scene, image in islice(draw_scenes(7), 20):
        pixels = np.asarray(image).astype(int)
        said = texts.read_attributes(texts.write_caption(scene))
        for shape in scene.shapes:
            x, y = (int(p * SIDE_PX) for p in PLACES[shape.place])
            middle = pixels[y - 3 : y + 4, x - 3 : x + 4].mean(axis=(0, 1))
            assert np.abs(middle - COLOURS[shape.colour]).max() < 14
            assert said[f"{shape.place} colour"] == shape.colour
        assert len(said) == 3 * len(scene.shapes) + 1


def test_every_attribute_is_drawn() -> None:
    chance = random.Random(0)
    scenes = [invent_scene(chance) for _ in range(300)]
    assert {len(scene.shapes) for scene in scenes} == {1, 2, 3, 4}
    assert len({(s.size, s.colour, s.shape, s.place) for x in scenes for s in x.shapes}) == 144


def test_brief_captions_and_answers_are_exact() -> None:
    scene = Scene("grey", (Shape("small", "orange", "circle", "top left"),))
    assert texts.write_brief_caption(scene) == "An orange circle."
    said = dict(texts.write_questions(scene, random.Random(0)))
    assert said["How many shapes are there?"] == "One."
    assert said["What is at the top left?"] == "A small orange circle."


def test_one_wrong_word_is_one_wrong_attribute() -> None:
    right = "The image shows one shape on a grey background. At the top left is a small red square."
    wrong = right.replace("square", "circle")
    found = score_captions([(right, right), (right, wrong), (right, "")])
    assert (found.scenes, found.exact, found.attributes, found.right) == (3, 1, 12, 7)


def test_lessons_name_the_images_of_their_shards(tmp_path: Path) -> None:
    write_lessons(tmp_path / "lessons", 12, seed=1)
    records = json.loads((tmp_path / "lessons" / "captions.json").read_text())
    with tarfile.open(tmp_path / "lessons" / "00000.tar") as tar:
        names = set(tar.getnames())
        for record in records:
            shard, name = record["image"].split("/")
            assert shard == "00000"
            assert name in names
            text = tar.extractfile(name.replace(".jpg", ".txt"))
            assert text is not None
            assert text.read().decode() == record["conversations"][1]["value"]


def test_questions_of_a_lesson_are_those_of_benchmarks_too_and_in_any_order(tmp_path: Path) -> None:
    write_lessons(tmp_path / "lessons", 40, seed=1)
    records = json.loads((tmp_path / "lessons" / "questions.json").read_text())
    first = set()
    for record in records:
        turns = [turn["value"] for turn in record["conversations"]]
        asked = dict(zip(turns[::2], turns[1::2], strict=True))
        assert len(asked) == 6
        letters = [a for q, a in asked.items() if q.endswith(LETTER)]
        assert len(letters) == 1
        assert letters[0] in "ABCD"
        assert {a for q, a in asked.items() if q.endswith(SHORT)} <= {"Yes", "No"}
        first.add(turns[0].split("\n")[1].split()[0])
    assert {"How", "Which", "What", "Is"} <= first


def test_the_answers_of_an_exam_are_right() -> None:
    chance = random.Random(5)
    for scene, _ in islice(draw_scenes(11), 60):
        known = {(shape.colour, shape.shape) for shape in scene.shapes}
        pairs = write_pairs(scene, chance)
        yes, no = (re.fullmatch(r"Is there a (\w+) (\w+)\?", q) for q in pairs["existence"])
        assert yes
        assert no
        assert yes.groups() in known
        assert no.groups() not in known
        places = {(s.colour, s.shape, s.place) for s in scene.shapes}
        at = [re.fullmatch(r"Is the (\w+) (\w+) at the (.*)\?", q) for q in pairs["position"]]
        assert [bool(one and one.groups() in places) for one in at] == [True, False]
        assert [scene.background in question for question in pairs["color"]] == [True, False]
        for _, question, options in write_choices(scene, chance):
            assert len(set(options)) == 4
            if question.startswith("How many"):
                assert options[0] == texts.NUMBERS[len(scene.shapes)]


def test_the_benchmarks_of_the_demo_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_benchmarks(tmp_path / name, 3)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 3 * 4 * 2 + 1
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    rows = (tmp_path / "one/mmbench/mmbench_dev_20230712.tsv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 3 * 4
