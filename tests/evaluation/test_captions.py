"""Figures of captions: objects by their words, figures done by hand, intervals, and comparisons."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import eval as script
from s4v_core.errors import ConfigError, InputError
from s4v_core.evaluation.benchmark import Unit
from s4v_core.evaluation.captions.comparison import compare_captions
from s4v_core.evaluation.captions.objects import ObjectFinder
from s4v_core.evaluation.captions.reading import read_captions, read_references
from s4v_core.evaluation.captions.score import CaptionScore, score_captions
from s4v_core.evaluation.comparison import find_interval
from tests.captioning.captioned_run import caption_inputs
from tests.captioning.demo_scorer import build_scorer
from tests.conftest import SHARED_DATA, photo, write_tar
from tests.evaluation.tiny import write_json, write_lines

COCO = SHARED_DATA / "benchmarks" / "captions"
needs_coco = pytest.mark.skipif(not COCO.exists(), reason="needs ../shared/data")

FOUND = [
    ("Two men ride a bike past a fire hydrant.", {"person", "bicycle", "fire hydrant"}),
    ("A hot dog on a plate, and no dog", {"hot dog", "plate", "dog"}),
    ("a teddy bear", {"teddy bear"}),
    ("a brown bear", {"bear"}),
    ("Children with kites and knives", {"person", "kite", "knife"}),
    ("a man in a bow tie", {"person", "tie"}),
    ("ties and buses, boxes and benches", {"tie", "bus", "box", "bench"}),
    ("the player slides into home plate", {"person"}),
    ("an orange shirt and an orange", {"shirt", "orange"}),
    ("an orange and white cat", {"cat"}),
    ("a bowl of oranges", {"bowl", "orange"}),
    ("a short man in shorts", {"person", "shorts"}),
    ("a glass wall, a pair of glasses, a wine glass", {"wall", "eyeglasses", "wine glass"}),
    ("the train track", set()),
    ("TRAFFIC-LIGHT", {"traffic light"}),
    ("a dressed up dog training hard", {"dog"}),
    ("a smartphone beside a tv remote", {"cell phone", "tv", "remote"}),
    ("category, carpet, cargo, planet, busy", {"carpet"}),
    ("", set()),
    ("🙂 是 \x00", set()),
]


@pytest.mark.parametrize(("text", "objects"), FOUND)
def test_objects_are_found_by_any_of_their_words(text: str, objects: set[str]) -> None:
    assert ObjectFinder().find(text) == objects


def test_references_add_objects_and_words_of_their_own() -> None:
    finder = ObjectFinder([["thistles", "globe flower"], ["sofa", "davenport"], ["Lighthouse"]])
    assert finder.find("a globe flower and a thistle") == {"thistles"}
    assert finder.find("two davenports") == {"couch"}
    assert finder.name("light house") is None
    assert finder.find("a lighthouse") == {"lighthouse"}


REFERENCES = [
    {"image": "a.jpg", "captions": ["A cat on a mat."], "objects": ["cat", "chair"]},
    {"image": "b.jpg", "instances": [{"category": one} for one in ("dog", "dog", "car")]},
    {"image": "c.jpg", "captions": ["A dog."]},
    {"image": "d.jpg", "objects": []},
]  # fmt: skip


def _write(folder: Path, texts: dict[str, str], name: str = "captions.jsonl") -> str:
    rows = [{"image_id": key, "caption": text} for key, text in texts.items()]
    return str(write_lines(folder / name, rows))


def _measure(folder: Path, texts: dict[str, str], references: Any = REFERENCES) -> CaptionScore:
    refs = write_json(folder / "refs.json", references)
    return score_captions(_write(folder, texts), str(refs))


def test_precision_and_recall_by_hand(tmp_path: Path) -> None:
    texts = {
        "x/a.jpg": "A kitten, a kitten and a dog.",  # one of two; one of two
        "b": "Puppies beside an automobile",  # two of two; two of two
        "c.png": "A car.",  # none of one; none of one
        "d": "Nothing but sky",
        "e": "A dog",
    }
    score = _measure(tmp_path, texts)
    found = {name: round(one.value, 2) for name, one in score.figures.items()}
    assert found["object precision"] == 60.0
    assert found["object recall"] == 60.0
    assert found["captions with a wrong object"] == 50.0
    assert (score.measured.n, score.measured.without_reference) == (5, 1)
    assert score.measured.without_caption == 0
    # A mat is an object, but none that any list of the file names.
    assert score.figures["object precision"].n == 4


def test_lists_may_be_missing_altogether(tmp_path: Path) -> None:
    references = [{"image_id": n, "caption": f"A {one} on grass"} for n, one in enumerate("ab")]
    references[0]["caption"] = "A dog on grass"
    score = _measure(tmp_path, {"0": "A dog", "1": "A dog on a lawn"}, references)
    assert score.figures["object precision"].value == pytest.approx(100 * 2 / 3)
    assert score.figures["object recall"].value == pytest.approx(100 * 2 / 3)


def test_figures_of_the_words_alone(tmp_path: Path) -> None:
    texts = {
        "a": "The image shows a red bus.",
        "b": "one two three four one two three four",
        "c": "A dog!",
        "d": "a dog",
    }
    score = score_captions(_write(tmp_path, texts), None)
    found = {name: one.value for name, one in score.figures.items()}
    assert found["words per caption"] == pytest.approx((6 + 8 + 2 + 2) / 4)
    assert found["different words in 50"] == pytest.approx(100 * (1 + 0.5 + 1 + 1) / 4)
    assert found["repeated groups of 4 words"] == pytest.approx(100 * 1 / (3 + 5))
    assert found["captions that another image has, too"] == 50
    assert found['openings like "The image shows"'] == 25
    assert not [name for name in found if "object" in name or "several" in name]


def test_windows_slide_over_a_long_caption(tmp_path: Path) -> None:
    words = [random.Random(0).choice("abcdefghij") + str(n % 7) for n in range(173)]
    score = score_captions(_write(tmp_path, {"a": " ".join(words)}), None)
    shares = [len(set(words[n : n + 50])) / 50 for n in range(len(words) - 49)]
    expected = 100 * sum(shares) / len(shares)
    assert score.figures["different words in 50"].value == pytest.approx(expected)


def test_an_interval_is_that_of_a_share() -> None:
    units = [Unit(str(n), float(n % 4 == 0)) for n in range(400)]
    low, high = find_interval(units)
    half = 100 * 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert (low, high) == (pytest.approx(25 - half, abs=0.6), pytest.approx(25 + half, abs=0.6))


def test_an_image_whose_caption_failed_names_nothing_and_counts(tmp_path: Path) -> None:
    members = {f"{n}.jpg": photo(n, (64, 48)) for n in range(3)}
    shard = write_tar(tmp_path / "shards" / "0.tar", members)
    run = tmp_path / "run"
    caption_inputs(run, shard, rejected=("0/1",), mark=" a dog ")
    references = [{"image": f"{n}.jpg", "objects": ["dog"]} for n in range(3)]
    refs = write_json(tmp_path / "refs.json", references)
    score = score_captions(str(run), str(refs))
    assert (score.measured.n, score.measured.failed) == (2, 1)
    assert score.figures["object recall"].value == pytest.approx(100 * 2 / 3)
    assert score.figures["words per caption"].n == 2
    assert "1 images without a caption" in score.as_text()
    caption_inputs(tmp_path / "part", shard, unit_size=1, units=2)
    with pytest.raises(InputError, match="has 1 units without captions; finish the run first"):
        score_captions(str(tmp_path / "part"), None)


def test_images_of_two_shards_with_one_name_lead_to_no_reference(tmp_path: Path) -> None:
    texts = {"one/a.jpg": "A cat", "two/a.jpg": "A dog", "b.jpg": "A dog and a car"}
    score = _measure(tmp_path, texts)
    assert score.measured.without_reference == 2
    assert score.figures["object recall"].value == 100


def test_two_sets_are_compared_on_the_images_that_they_share(tmp_path: Path) -> None:
    chance = random.Random(1)
    kinds = ("dog", "cat", "car", "bus", "bench", "kite")
    refs = [{"image": f"{n}.jpg", "objects": chance.sample(kinds, 2)} for n in range(120)]
    file = str(write_json(tmp_path / "refs.json", refs))
    right = {row["image"]: "A " + " and a ".join(row["objects"]) for row in refs}
    half = {key: f"A {chance.choice(kinds)}, here" for key in right}
    first = _write(tmp_path, right)
    second = _write(tmp_path, dict(list(half.items())[:100]) | {"z": "A dog"}, "b.jsonl")
    n, lines = compare_captions((first, second), file)
    assert n == 100
    assert any(one.startswith("object precision") and "beyond noise" in one for one in lines)
    n, lines = compare_captions((first, first), file)
    assert n == 120
    assert all("the same" in one for one in lines if "several" not in one)
    shuffled = _write(tmp_path, dict(reversed(right.items())), "c.jsonl")
    assert compare_captions((first, shuffled), file) == (n, lines)
    with pytest.raises(
        ConfigError, match=r"no image in common; they hold such as '0\.jpg' and 'q'"
    ):
        compare_captions((first, _write(tmp_path, {"q": "A dog"}, "d.jsonl")), file)


def test_noise_is_called_so(tmp_path: Path) -> None:
    chance = random.Random(2)
    refs = [{"image": str(n), "objects": ["dog", "cat"]} for n in range(80)]
    file = str(write_json(tmp_path / "refs.json", refs))
    places = [
        _write(tmp_path, {row["image"]: f"A {chance.choice(('dog', 'cat'))}" for row in refs}, name)
        for name in ("a.jsonl", "b.jsonl")
    ]
    _, lines = compare_captions(places, file)
    assert any(one.startswith("object recall") and "the same" in one for one in lines)
    assert not any("beyond noise" in one for one in lines)


BAD = [
    ("captions", "", "is empty"),
    ("captions", '[{"image_id": 1}]', "record 1 has no a caption"),
    ("captions", '[{"caption": "x"}]', "record 1 has no an image"),
    ("captions", '[{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "y"}]', "twice"),
    ("captions", '[{"image_id": 1, "caption": ""}]', "holds no captions"),
    ("captions", '[{"image_id": 1, "caption": "x"}', "ends in the middle"),
    ("refs", "", "is empty"),
    ("refs", '[{"image_id": 1}]', "record 1 has no captions or objects"),
    ("refs", '[{"captions": ["x"]}]', "record 1 has no an image"),
    ("refs", '[{"image": "9", "objects": ["dog"]}]', "is about none of the images"),
]


@pytest.mark.parametrize(("name", "text", "sentence"), BAD)
def test_bad_files_are_one_sentence(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    files = {"captions": '[{"image_id": "a", "caption": "A dog"}]',
             "refs": '[{"image_id": "a", "objects": ["dog"]}]'} | {name: text}  # fmt: skip
    for one, content in files.items():
        (tmp_path / f"{one}.json").write_text(content)
    with pytest.raises(InputError, match=sentence) as caught:
        score_captions(str(tmp_path / "captions.json"), str(tmp_path / "refs.json"))
    assert "\n" not in str(caught.value)


def test_places_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_captions(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no such file"):
        read_references(str(tmp_path / "nowhere.json"))


def test_the_command_writes_the_same_file_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refs = str(write_json(tmp_path / "refs.json", REFERENCES))
    first = _write(tmp_path, {"a": "A cat", "b": "A car", "c": "A cat"})
    flags = ["--benchmarks", "captions", "--references", refs, "--output", str(tmp_path / "out")]
    assert script.main([*flags, "--input", first]) == 0
    before = (tmp_path / "out/scores.json").read_bytes()
    assert script.main([*flags, "--input", first]) == 0
    assert (tmp_path / "out/scores.json").read_bytes() == before
    (score,) = json.loads(before)["scores"]
    assert score["figures"]["object precision"]["value"] == 66.6667
    assert score["n_references_of_other_images"] == 1
    assert "3 captions; 1 references of other images" in capsys.readouterr().out
    second = _write(tmp_path, {"a": "A cat", "b": "A dog and a car"}, "b.jsonl")
    assert script.main([*flags[:-2], "--compare", first, second]) == 0
    assert "captions of 2 images, captions.jsonl and b.jsonl" in capsys.readouterr().out
    for wrong in (flags, [*flags, "--input", first, "--compare", first, second]):
        with pytest.raises(ConfigError, match="give one of --input and --compare"):
            script.main(wrong)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_clip_that_is_named_scores_the_run_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_scorer(tmp_path / "clip")
    members = {f"{n}.jpg": photo(n, (64, 48)) for n in range(6)}
    shard = write_tar(tmp_path / "shards" / "0.tar", members)
    caption_inputs(tmp_path / "run", shard, rejected=("0/1",))
    flags = ["--benchmarks", "captions", "--input", str(tmp_path / "run")]
    flags += ["--clip", str(tmp_path / "clip"), "--output", str(tmp_path / "out")]
    assert script.main(flags) == 0
    (score,) = json.loads((tmp_path / "out/scores.json").read_text())["scores"]
    fit = score["figures"]["fit to the image"]
    assert fit["n"] == 5
    assert fit["low"] <= fit["value"] <= fit["high"]
    assert score["fit_by"] == str(tmp_path / "clip")
    assert "fit to the image" in capsys.readouterr().out


def _write_gpt4(folder: Path, kind: str) -> str:
    """Texts that GPT-4 wrote from the captions and boxes of 30 images of COCO."""
    rows = [json.loads(line) for line in (COCO / "coco2014_val_gpt4_qa_30x3.jsonl").open()]
    texts = [{"id": r["id"], "caption": r["output"]} for r in rows if r["type"] == kind]
    return str(write_lines(folder / f"{kind}.jsonl", texts))


@needs_coco
def test_descriptions_written_from_boxes_name_what_the_boxes_hold(tmp_path: Path) -> None:
    boxes = COCO / "caps_boxes_coco2014_val_80.jsonl"
    place = _write_gpt4(tmp_path, "detail")
    score = score_captions(place, str(boxes))
    precision = score.figures["object precision"]
    assert precision.value > 97
    assert score.figures["object recall"].value > 95
    # The same descriptions beside the boxes of other images.
    rows = [json.loads(line) for line in boxes.open()]
    moved = [row | {"id": rows[n - 1]["id"], "image": "-"} for n, row in enumerate(rows)]
    wrong = score_captions(place, str(write_lines(tmp_path / "moved.jsonl", moved)))
    assert wrong.figures["object precision"].high < 60 < precision.low
    _, lines = compare_captions((place, _write_gpt4(tmp_path, "complex")), str(boxes))
    assert any(one.startswith("object recall") and "beyond noise" in one for one in lines)
