import json
from pathlib import Path
from typing import Any

import pytest

from s4v_core.datasets.conversations import Conversation, Unusable, read_conversations
from s4v_core.errors import InputError
from tests.conftest import SHARED_DATA

FORMATS = SHARED_DATA / "benchmarks" / "sharegpt4v_format"


def _read(folder: Path, *records: Any) -> list[Conversation | Unusable]:
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return list(read_conversations(str(path)))


def _turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in said]


def test_the_image_mark_leaves_its_question(tmp_path: Path) -> None:
    turns = _turns(("human", "What is it?\n<image>"), ("gpt", "A cat."))
    [found] = _read(tmp_path, {"id": "7", "image": "a.jpg", "conversations": turns})
    assert found == Conversation("7", "a.jpg", (("What is it?", "A cat."),), 0)


def test_an_answer_in_front_and_a_question_behind_are_left_out(tmp_path: Path) -> None:
    said = _turns(("gpt", "Hm."), ("human", "Q"), ("gpt", "A"), ("human", "Q2"))
    [found] = _read(tmp_path, {"id": 1, "conversations": said})
    assert found == Conversation("1", None, (("Q", "A"),), None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"conversations": []}, "no_turns"),
        ({"conversations": _turns(("human", "a"), ("human", "b"))}, "turns_out_of_order"),
        ({"conversations": _turns(("human", "<image>"), ("gpt", "b"))}, "image_mark_without_image"),
        (
            {"image": "a", "conversations": _turns(("human", "<image><image>"), ("gpt", "b"))},
            "two_images",
        ),
    ],
)
def test_a_record_that_teaches_nothing_is_a_reason(
    record: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert _read(tmp_path, record) == [Unusable("1", reason)]


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"id": "x"}, "record 2 .id x., field conversations: found nothing"),
        ({"id": "x", "conversations": [{"from": "human"}]}, r"field conversations\[0\].value"),
        ({"conversations": ["x"]}, r"field conversations\[0\]: found .x., needed an object"),
        ({"conversations": _turns(("system", "a"))}, "found 'system', needed human or gpt"),
        ({"image": 3, "conversations": []}, "record 2, field image: found 3"),
        ([], "record 2: found \\[\\], needed an object"),
    ],
)
def test_a_wrong_schema_names_record_and_field(record: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        _read(tmp_path, {"conversations": []}, record)


@pytest.mark.skipif(not FORMATS.exists(), reason="needs the shared reference data")
def test_published_files_are_read() -> None:
    found = list(read_conversations(str(FORMATS / "gpt4v_captions_5.json")))
    assert len(found) == 5
    assert all(isinstance(one, Conversation) and one.image_turn == 0 for one in found)
