"""Conversations joined with the places of their images."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from s4v_core.datasets.conversations import Unusable
from s4v_core.datasets.data_versions import find_changed, read_versions
from s4v_core.datasets.joining import PlacedConversation, join_images
from s4v_core.errors import InputError
from s4v_core.inputs.indexing import INDEX_SCHEMA
from s4v_core.records.captions import RESULT_SCHEMA, caption_units
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.schemas import table_of
from tests.conftest import photo, write_tar

TURNS = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]


def _write_json(folder: Path, *images: str | None) -> str:
    named = [{} if image is None else {"image": image} for image in images]
    records = [{"id": str(n), "conversations": TURNS} | one for n, one in enumerate(named)]
    (folder / "data.json").write_text(json.dumps(records))
    return str(folder / "data.json")


def _join(data: str, *images: str, match_file_names: bool = False) -> list[str | None]:
    """The image id of each conversation, None for text alone, or why it is unusable."""
    found = join_images((data,), images, None, match_file_names)
    return [
        one.reason
        if isinstance(one, Unusable)
        else ", ".join(place["image_id"] for place in one.places) or None
        for one in found
    ]


def test_an_image_is_found_by_its_whole_path_and_by_its_file_name_only_if_asked_for(
    tmp_path: Path,
) -> None:
    for name in ("x/a.jpg", "y/b.jpg", "y/c.jpg", "z/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(photo(1, (40, 30)))
    names = ("x/a.jpg", "x/a.png", "elsewhere/b.jpg", "elsewhere/c.jpg", None)
    data = _write_json(tmp_path, *names)
    found = _join(data, str(tmp_path))
    assert found == ["x/a.jpg", "not_found", "not_found", "not_found", None]
    found = _join(data, str(tmp_path), match_file_names=True)
    assert found == ["x/a.jpg", "x/a.jpg", "y/b.jpg", "ambiguous_image", None]


def test_no_other_name_finds_an_image(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.jpg").write_bytes(photo(1, (40, 30)))
    same = ("sub/a.jpg", "./sub/a.jpg", "sub\\a.jpg", "sub//a.jpg", f"{tmp_path}/sub/a.jpg")
    same += (f"file://{tmp_path}/sub/a.jpg",)
    others = (
        *("a.jpg", "sub/a.png", "sub/a", "sub/A.jpg", "https://example.com/sub/a.jpg"),
        *("/elsewhere/sub/a.jpg", "file:///sub/a.jpg", "../sub/a.jpg", "x/sub/a.jpg", "", "sub"),
    )
    found = _join(_write_json(tmp_path, *same, *others), str(tmp_path))
    assert found == ["sub/a.jpg"] * len(same) + ["not_found"] * len(others)


def test_a_name_is_found_in_either_spelling_of_its_accents(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for name in (f"{decomposed}.jpg", "both\u00e9.jpg", "bothe\u0301.jpg"):
        (tmp_path / name).write_bytes(photo(1, (40, 30)))
    names = (
        f"{composed}.jpg",
        f"{decomposed}.jpg",
        "both\u00e9.jpg",
        "bothe\u0301.jpg",
        "cafe.jpg",
    )
    found = _join(_write_json(tmp_path, *names), str(tmp_path))
    assert found == [f"{decomposed}.jpg"] * 2 + ["both\u00e9.jpg", "bothe\u0301.jpg", "not_found"]


def test_matches_by_file_name_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vg").mkdir()
    (tmp_path / "vg/1.jpg").write_bytes(photo(1, (40, 30)))
    data = _write_json(tmp_path, "coco/1.jpg", "vg/1.jpg", "1.png")
    assert _join(data, str(tmp_path), match_file_names=True) == ["vg/1.jpg"] * 3
    assert "2 images were found by their file names alone" in caplog.text
    assert "coco/1.jpg is taken from vg/1.jpg" in caplog.text


def test_each_of_several_images_has_its_place_and_a_missing_one_is_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(photo(1, (40, 30)))
    said = [{"role": "user", "content": "<image><image>?"}, {"role": "assistant", "content": "x"}]
    records = [
        {"id": "good", "images": ["b.jpg", "a.jpg"], "messages": said},
        {"id": "bad", "images": ["b.jpg", "c.jpg"], "messages": said},
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    good, bad = join_images((f"{tmp_path}/data.json",), (), None)
    assert isinstance(good, PlacedConversation)
    assert [place["image_id"] for place in good.places] == ["b.jpg", "a.jpg"]
    assert isinstance(bad, Unusable)
    assert bad.describe() == {
        **{"data": f"{tmp_path}/data.json", "record": 2, "sample_id": "bad"},
        **{"reason": "not_found", "field": "images[1]", "found": "c.jpg"},
    }


def test_an_image_in_a_tar_is_found_by_its_path_there(tmp_path: Path) -> None:
    write_tar(tmp_path / "t/0.tar", {"gqa/1.jpg": photo(1), "vg/1.jpg": photo(2)})
    write_tar(tmp_path / "t/1.tar", {"vg/2.jpg": photo(3), "vg/1.jpg": photo(4)})
    names = ("gqa/1.jpg", "./vg/2.jpg", "0/vg/1.jpg", "1/vg/1", "vg/1.jpg", "1.jpg", "vg/1.png")
    found = _join(_write_json(tmp_path, *names), str(tmp_path / "t"))
    assert found == [
        *("0/gqa/1", "1/vg/2", "0/vg/1", "1/vg/1"),
        *("ambiguous_image", "not_found", "not_found"),
    ]


def test_images_are_beside_the_json_unless_a_place_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1, (40, 30)))
    assert _join(_write_json(tmp_path, "a.jpg")) == ["a.jpg"]


def test_text_alone_needs_no_images(tmp_path: Path) -> None:
    assert _join(_write_json(tmp_path, None), str(tmp_path / "missing")) == [None]


def _write_caption_run(output: str, captions: dict[str, str | None]) -> None:
    """A run with one unit; an image without a caption was rejected."""
    place = dict.fromkeys(INDEX_SCHEMA.names) | {"uri": "u", "container": "tar", "source": "s"}
    index = table_of([place | {"image_id": name} for name in captions], INDEX_SCHEMA, "test")
    head = build_head([len(captions)], [], {}, "listing", kind="captions", key="image_id")
    write_plan(output, head, [index])
    row: dict[str, Any] = dict.fromkeys(RESULT_SCHEMA.names) | {
        **dict.fromkeys(("uri", "source", "model", "model_revision", "engine", "run_id"), "x"),
        **{"prompt": "Describe it.", "sampling": "{}", "attempts": 1},
        "created_at": datetime.now(UTC),
    }
    rows = [
        row
        | {"image_id": name, "caption": caption, "status": "ok" if caption else "rejected"}
        | {"reason": None if caption else "too_short"}
        for name, caption in captions.items()
    ]
    rows_table = table_of(rows, RESULT_SCHEMA, "test")
    caption_units(output).commit(0, head.digest, "run", rows_table)


def test_captions_that_are_added_to_a_run_change_its_version(tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    _write_caption_run(output, {"a": "A cat.", "b": None})
    before = read_versions((output,))
    assert find_changed((output,), before) == []
    other = str(tmp_path / "other")
    _write_caption_run(other, {"a": "A dog.", "b": None})
    (tmp_path / "run/captions/unit-000001.parquet").write_bytes(
        (tmp_path / "other/captions/unit-000000.parquet").read_bytes()
    )
    [sentence] = find_changed((output,), before)
    assert sentence.startswith(f"{output} (")


def test_a_caption_run_gives_its_captions_with_the_places_of_its_plan(tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    _write_caption_run(output, {"a": "A cat.", "b": None})
    good, bad = join_images((output,), (), None)
    assert isinstance(good, PlacedConversation)
    assert good.conversation.turns == (("Describe it.", "A cat."),)
    [place] = good.places
    assert (place["image_id"], place["container"]) == ("a", "tar")
    assert bad == Unusable("b", "too_short", data=output)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither the output of a caption run nor a JSON"):
        list(join_images((str(tmp_path),), (), None))
