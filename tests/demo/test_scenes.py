import json
import random
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np

from s4v_core.demo import texts
from s4v_core.demo.scene_files import write_lessons, write_scenes
from s4v_core.demo.scenes import COLOURS, PLACES, SIDE_PX, Scene, Shape, draw_scenes, invent_scene
from s4v_core.demo.score import score_captions


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
