import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from ray_jobs.prefer import main
from s4v_core.analysis.caption_texts import CaptionSet, name_sets
from s4v_core.analysis.preference.pairs import draw_pairs
from s4v_core.analysis.preference.question import Preference
from s4v_core.analysis.preference.results import describe_results, show_results
from s4v_core.annotation.questions import Item
from s4v_core.annotation.vote_store import Vote, VoteStore
from s4v_core.errors import ConfigError, InputError
from tests.analysis.preference_study import SETS, write_sets
from tests.captioning.captioned_run import caption_inputs
from tests.conftest import photo, write_tar

NAMES = {"a": "GPT4-Vision", "b": "Share-Captioner", "comparable": "Comparable"}


def find_sets(folder: Path) -> list[CaptionSet]:
    return name_sets(tuple(str(folder / one) for one in SETS), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"), 30)


def test_a_draw_depends_on_its_seed_and_a_smaller_one_is_its_beginning(folder: Path) -> None:
    a, b = find_sets(folder)
    whole = draw_pairs(a, b, (), 30, seed=1)
    assert whole.common == 30
    assert sorted(pair.image for pair in whole.pairs) == [f"images/{n:03d}.jpg" for n in range(30)]
    for pair in whole.pairs:
        number = int(pair.image[7:10])
        assert (pair.a, pair.b) == (f"here says {number}", f"there says {number}, and says more")
    few = draw_pairs(a, b, (), 10, seed=1)
    assert few.pairs == whole.pairs[:10]
    assert draw_pairs(a, b, (), 10, seed=2).pairs != few.pairs


def test_a_run_and_a_file_are_joined_by_the_names_of_images(tmp_path: Path) -> None:
    images = {f"{n}.jpg": photo(n) for n in range(6)}
    tar = write_tar(tmp_path / "photos.tar", images)
    caption_inputs(tmp_path / "run", tar, rejected=("photos/3.jpg", "photos/3"))
    ids = [one.image for one in _read(CaptionSet("run", str(tmp_path / "run")))]
    assert len(ids) == 5
    records = [{"image_id": name, "caption": f"of {name}"} for name in [*ids, "elsewhere"]]
    (tmp_path / "other.json").write_text(json.dumps(records))
    run, other = name_sets((str(tmp_path / "run"), str(tmp_path / "other.json")), None)
    draw = draw_pairs(run, other, (), 100, seed=0)
    assert {pair.image: pair.b for pair in draw.pairs} == {name: f"of {name}" for name in ids}
    assert all(pair.place["container"] == "tar" for pair in draw.pairs)
    turned = draw_pairs(other, run, (), 100, seed=0)
    assert [(p.image, p.b, p.a) for p in turned.pairs] == [(p.image, p.a, p.b) for p in draw.pairs]


def _read(captions: CaptionSet) -> list:
    from s4v_core.analysis.preference.image_captions import read_image_captions

    return list(read_image_captions(captions))


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"image": "./a//b.jpg", "caption": "x"}, "a/b.jpg"),
        ({"image_id": 391895, "caption": "x"}, "391895"),
        ({"image/key": "aar_test_04600", "caption": "x"}, "aar_test_04600"),
        ({"data/a.jpg": "x"}, "data/a.jpg"),
        (
            {
                "id": "1",
                "image": "sam/1.jpg",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat?"},
                    {"from": "gpt", "value": "x"},
                ],
            },
            "sam/1.jpg",
        ),
    ],
)
def test_usual_records_name_their_images(tmp_path: Path, record: dict, name: str) -> None:
    place = tmp_path / "set.jsonl"
    place.write_text(json.dumps(record))
    [found] = _read(CaptionSet("set", str(place)))
    assert (found.image, found.text) == (name, "x")


def test_images_that_cannot_be_shown_are_left_out_and_counted(tmp_path: Path) -> None:
    write_sets(tmp_path, 10)
    (tmp_path / "images" / "003.jpg").unlink()
    (tmp_path / "images" / "004.jpg").write_bytes(b"no image")
    draw = draw_pairs(*find_sets(tmp_path), (), 10, seed=0)
    assert len(draw.pairs) == 8
    assert draw.left_out == Counter({"not_found": 1, "not_an_image": 1})
    assert "2 more cannot be shown" in draw.as_text()


def test_sets_without_a_common_image_are_refused_with_an_example_of_both(tmp_path: Path) -> None:
    for name, image in (("one", "a/1.jpg"), ("two", "b/2.jpg")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"image": image, "caption": "x"}]))
    sets = name_sets((str(tmp_path / "one.json"), str(tmp_path / "two.json")), None)
    with pytest.raises(InputError, match=r"one has 'a/1.jpg', two has 'b/2.jpg'; name .* --key"):
        draw_pairs(*sets, (), 10, seed=0)


def test_sides_are_drawn_for_each_rater_and_choices_mean_what_was_shown() -> None:
    question = Preference("secret")
    items = [Item(str(n), {"a": "of A", "b": "of B"}) for n in range(500)]
    lefts = Counter[str]()
    for rater in ("anna", "bela"):
        for item in items:
            shown = question.show(item, rater)
            texts = dict(zip(("left", "right"), (text for _, text in shown.texts), strict=True))
            assert sorted(texts.values()) == ["of A", "of B"]
            for side in ("left", "right"):
                answer = question.read_choice(item, rater, side)
                assert texts[side] == f"of {answer.upper()}"
                assert question.find_choice(item, rater, answer) == side
            assert question.read_choice(item, rater, "comparable") == "comparable"
            lefts[rater] += texts["left"] == "of A"
    assert all(200 < count < 300 for count in lefts.values())
    sides = [[question.show(item, rater).texts for item in items] for rater in ("anna", "bela")]
    assert 150 < sum(one != other for one, other in zip(*sides, strict=True)) < 350


def test_the_percentages_of_table_2_come_from_its_thousand_votes() -> None:
    # 10 people and 100 images; 38.2 %, 35.3 % and 26.5 % (Table 2).
    answers = ["a"] * 382 + ["b"] * 353 + ["comparable"] * 265
    votes = [Vote(f"r{n % 10}", n // 10, "left", one, 4.0) for n, one in enumerate(answers)]
    items = [Item(str(n)) for n in range(100)]
    figures = describe_results(NAMES, items, votes)
    text = show_results(figures)
    assert "1,000 votes of 10 raters on 100 of 100 images" in text
    row = next(line for line in text.splitlines() if line.startswith("Percentage"))
    assert row.split()[1:] == ["38.2%", "35.3%", "26.5%"]
    assert figures["majority"] == {"a": 38, "b": 35, "comparable": 26, "split": 1}
    assert figures["raters"]["r3"]["votes"] == 100


def test_results_of_no_votes_and_of_one_are_shown() -> None:
    items = [Item("0")]
    assert "0 votes of 0 raters" in show_results(describe_results(NAMES, items, []))
    one = describe_results(NAMES, items, [Vote("anna", 0, "comparable", "comparable", 1.0)])
    assert "kappa undefined" in show_results(one)
    json.dumps(one, allow_nan=False)


def test_the_script_goes_on_with_its_study_and_refuses_another(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [str(folder / one) for one in SETS]
    flags = ["--output", str(tmp_path / "study"), "--n", "7", "--results"]
    assert main([*sets, *flags]) == 0
    assert "7 images drawn of 30" in capsys.readouterr().out
    store = VoteStore(tmp_path / "study" / "votes.sqlite")
    first = [item.item_id for item in store.items]
    store.add(Vote("anna", 0, "left", "b", 2.0))
    assert main([*sets, *flags]) == 0
    assert "1 votes of 1 raters" in capsys.readouterr().out
    again = VoteStore(tmp_path / "study" / "votes.sqlite")
    assert [item.item_id for item in again.items] == first
    assert (
        json.loads((tmp_path / "study" / "results.json").read_text())["shares"]["b"]["count"] == 1
    )
    for other in (["--n", "8"], ["--seed", "1"], ["--images", str(folder)]):
        with pytest.raises(ConfigError, match="choose another --output"):
            main([*sets, "--output", str(tmp_path / "study"), "--results", *(other or flags)])
    with pytest.raises(ConfigError, match="choose another --output"):
        main([*sets[::-1], *flags])


def test_bad_input_is_a_sentence_and_leaves_no_study(folder: Path, tmp_path: Path) -> None:
    sets = [str(folder / one) for one in SETS]
    output = ["--output", str(tmp_path / "study")]
    with pytest.raises(ConfigError, match="allowed a folder on a disk"):
        main([*sets, "--output", "s3://bucket/study"])
    with pytest.raises(ConfigError, match="needs both --judge and --judge-model"):
        main([*sets, *output, "--judge", "http://127.0.0.1:1/v1"])
    with pytest.raises(InputError):
        main([str(folder / "missing.json"), sets[1], *output])
    with pytest.raises(ConfigError, match="cannot listen on"):
        main([*sets, "--output", str(tmp_path / "other"), "--host", "192.0.2.1"])
    assert not (tmp_path / "study").exists()


def test_a_half_of_a_character_in_a_caption_is_replaced(tmp_path: Path) -> None:
    write_sets(tmp_path, 3)
    lines = (tmp_path / "both.jsonl").read_text().replace("here says 1", "here says \\ud800 1")
    (tmp_path / "both.jsonl").write_text(lines)
    sets = [str(tmp_path / one) for one in SETS]
    assert main([*sets, "--output", str(tmp_path / "study"), "--results"]) == 0
    with sqlite3.connect(tmp_path / "study" / "votes.sqlite") as connection:
        found = {row[0] for row in connection.execute("SELECT about FROM items")}
    assert any("here says ? 1" in about for about in found)
