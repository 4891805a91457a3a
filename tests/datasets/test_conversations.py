"""Records of training JSON in the dialects that people have, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from s4v_core.datasets.conversations import Conversation, Unusable, read_conversations
from tests.conftest import SHARED_DATA

FORMATS = SHARED_DATA / "benchmarks" / "sharegpt4v_format"


def _read(folder: Path, *records: Any) -> list[Conversation | Unusable]:
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return list(read_conversations(str(path)))


def _turns(*said: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": who, "value": text} for who, text in said]


def _messages(*said: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": who, "content": text} for who, text in said]


def _parse(folder: Path, record: Any) -> Conversation:
    [found] = _read(folder, record)
    assert isinstance(found, Conversation), found
    return found


def _names(found: Conversation) -> list[tuple[str, int]]:
    """Each image's name, with the index of its question."""
    return list(zip((i.name for i in found.images), found.image_turns, strict=True))


def test_the_image_mark_leaves_its_question(tmp_path: Path) -> None:
    turns = _turns(("human", "What is it?\n<image>"), ("gpt", "A cat."))
    found = _parse(tmp_path, {"id": "7", "image": "a.jpg", "conversations": turns})
    assert (found.sample_id, found.turns) == ("7", (("What is it?", "A cat."),))
    assert _names(found) == [("a.jpg", 0)]


def test_an_answer_in_front_and_a_question_behind_are_left_out(tmp_path: Path) -> None:
    said = _turns(("gpt", "Hm."), ("human", "Q"), ("gpt", "A"), ("human", "Q2"))
    found = _parse(tmp_path, {"id": 1, "conversations": said})
    assert (found.sample_id, found.turns, found.images) == ("1", (("Q", "A"),), ())


ASKED = (("user", "<image>What?"), ("assistant", "A cat."))
PARTS = [{"type": "image"}, {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": _turns(*ASKED), "image": "a.jpg"},
        {"conversations": _turns(("Human", "<image>\nWhat?"), ("GPT", "A cat.")), "image": "a.jpg"},
        {"conversations": _messages(*ASKED), "images": ["a.jpg"]},
        {"messages": _messages(*ASKED), "images": ["a.jpg"]},
        {"messages": _turns(*ASKED), "image": ["a.jpg"]},
        {"messages": _messages(*ASKED), "images": [{"path": "a.jpg", "bytes": None}]},
        {"messages": _messages(*ASKED), "images": {"url": "a.jpg"}},
        {"messages": _messages(("user", "What?"), ASKED[1]), "images": ["a.jpg"]},
        {"messages": _messages(("user", PARTS), ASKED[1]), "images": ["a.jpg"]},
        {
            "messages": _messages(
                ("user", [{"index": 0, "type": "image", "text": None}, PARTS[1]]), ASKED[1]
            ),
            "images": ["a.jpg"],
        },
        {
            "messages": _messages(
                ("user", [{"type": "image", "image": "a.jpg"}, "What?"]),
                ("assistant", [{"type": "text", "text": "A cat."}]),
            )
        },
        {
            "messages": _messages(
                ("user", [PARTS[1], {"type": "image_url", "image_url": {"url": "a.jpg"}}]),
                ASKED[1],
            )
        },
        {
            "messages": _messages(
                ("user", [{"type": "image", "path": "a.jpg"}, PARTS[1]]), ASKED[1]
            ),
            "images": ["a.jpg"],
        },
        {"prompt": _messages(("user", PARTS)), "completion": _messages(ASKED[1]), "image": "a.jpg"},
        {"conversations": _turns(*ASKED), "image": "a.jpg", "images": ["a.jpg"], "tools": "[]"},
    ],
)
def test_the_dialects_say_the_same(record: dict[str, Any], tmp_path: Path) -> None:
    found = _parse(tmp_path, record)
    assert found.turns == (("What?", "A cat."),)
    assert _names(found) == [("a.jpg", 0)]
    assert found.system is None


@pytest.mark.parametrize(
    ("record", "system"),
    [
        ({"conversations": _turns(("system", "Be brief."), *ASKED)}, "Be brief."),
        ({"messages": _messages(("system", "Be brief."), *ASKED)}, "Be brief."),
        ({"messages": _messages(("developer", [{"text": "Be brief."}]), *ASKED)}, "Be brief."),
        ({"messages": _messages(*ASKED), "system": "Be brief."}, "Be brief."),
        ({"messages": _messages(*ASKED), "system": ""}, None),
        ({"messages": _messages(("system", ""), *ASKED)}, None),
    ],
)
def test_a_system_text_is_the_templates(
    record: dict[str, Any], system: str | None, tmp_path: Path
) -> None:
    found = _parse(tmp_path, record | {"image": "a.jpg"})
    assert found.system == system
    assert found.turns == (("What?", "A cat."),)


def test_marks_are_paired_with_the_images_in_order(tmp_path: Path) -> None:
    said = (
        *(("user", "<image>\n<image>\nSame?"), ("assistant", "No.")),
        *(("user", "Why?"), ("assistant", "So.")),
        *(("user", "And <image>?"), ("assistant", "Yes.")),
    )
    found = _parse(tmp_path, {"messages": _messages(*said), "images": ["a", "b", "c"]})
    assert _names(found) == [("a", 0), ("b", 0), ("c", 2)]
    assert [question for question, _ in found.turns] == ["Same?", "Why?", "And ?"]


def test_named_parts_and_marks_keep_their_order(tmp_path: Path) -> None:
    parts = [{"type": "image", "image": "own"}, {"type": "text", "text": "<image> Same?"}]
    said = _messages(("user", parts), ("assistant", "No."))
    found = _parse(tmp_path, {"messages": said, "images": ["listed"]})
    assert _names(found) == [("own", 0), ("listed", 0)]


def test_several_images_without_a_mark_come_before_the_first_question(tmp_path: Path) -> None:
    said = _turns(("gpt", "Hello"), ("human", "Same?"), ("gpt", "No."))
    found = _parse(tmp_path, {"conversations": said, "images": ["a", "b"]})
    assert _names(found) == [("a", 0), ("b", 0)]


def test_the_image_of_a_question_without_an_answer_goes_with_it(tmp_path: Path) -> None:
    said = (("user", "<image>A?"), ("assistant", "A."), ("user", "<image>B?"))
    found = _parse(tmp_path, {"messages": _messages(*said), "images": ["a", "b"]})
    assert _names(found) == [("a", 0)]


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
        ({"images": ["a", "b"], "messages": _messages(*ASKED)}, "images_and_marks_differ"),
        (
            {"image": "a", "conversations": _turns(*ASKED, ("user", "<image>?"), ("gpt", "b"))},
            "two_images",
        ),
        ({"image": "data:image/png;base64," + "A" * 90, "messages": []}, "inline_image"),
        ({"images": [{"bytes": "AAAA"}], "messages": _messages(*ASKED)}, "inline_image"),
        ({"messages": _messages(("user", "a\ud83d"), ("assistant", "b"))}, "bad_text"),
    ],
)
def test_a_record_that_teaches_nothing_is_a_reason(
    record: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    [found] = _read(tmp_path, record)
    assert isinstance(found, Unusable)
    assert (found.sample_id, found.record, found.reason) == ("1", 1, reason)


@pytest.mark.parametrize(
    ("record", "field", "found"),
    [
        ({"id": "x"}, "conversations", "found 'fields id', needed conversations or messages"),
        (
            {"instruction": "a", "output": "b"},
            "conversations",
            "found 'fields instruction, output'",
        ),
        ({"conversations": None}, "conversations", "needed conversations or messages"),
        ({"conversations": "hi"}, "conversations", "found 'hi', needed a list of turns"),
        ({"conversations": [{"from": "human"}]}, "conversations[0].value", "found nothing"),
        ({"conversations": ["x"]}, "conversations[0]", "found 'x', needed an object"),
        ({"conversations": _turns(("tool", "a"))}, "conversations[0].from", "found 'tool'"),
        (
            {"messages": _messages(("user", "a"), ("assistant", None))},
            "messages[1].content",
            "found nothing, needed a text",
        ),
        (
            {"messages": _messages(("user", [{"type": "video", "video": "v"}]))},
            "messages[0].content[0].type",
            "found 'video'",
        ),
        (
            {"messages": _messages(("user", "a"), ("assistant", [{"type": "image", "path": "b"}]))},
            "messages[1].content[0]",
            "no image in a message of the assistant",
        ),
        (
            {
                "messages": [
                    *_messages(("user", "a")),
                    {"role": "assistant", "content": "b", "weight": 0},
                ]
            },
            "messages[1].weight",
            "found 0, needed answers that are all learnt",
        ),
        (
            {
                "messages": _messages(
                    ("user", [{"type": "image", "index": n} for n in (1, 0)]), ASKED[1]
                ),
                "images": ["a", "b"],
            },
            "messages[0]",
            "found 'index 1 of mark 0'",
        ),
        ({"messages": _messages(*ASKED, ("system", "late"))}, "messages[2]", "in front of all"),
        ({"messages": _messages(*ASKED), "videos": ["v.mp4"]}, "videos", "found ['v.mp4']"),
        ({"image": 3, "conversations": []}, "image", "found 3, needed a path"),
        ({"images": ["a", None], "conversations": []}, "images[1]", "found nothing"),
        ({"image": "a", "images": ["b"], "messages": _messages(*ASKED)}, "images", "field image"),
        ([], "", "found [], needed an object"),
        (None, "", "found nothing, needed an object"),
    ],
)
def test_a_bad_record_is_a_row_with_its_field(
    record: Any, field: str, found: str, tmp_path: Path
) -> None:
    good = {"conversations": _turns(("human", "a"), ("gpt", "b"))}
    first, bad, last = _read(tmp_path, good, record, good)
    assert isinstance(first, Conversation)
    assert isinstance(last, Conversation)
    assert isinstance(bad, Unusable)
    assert (bad.record, bad.reason, bad.field) == (2, "bad_record", field)
    assert found in bad.found
    assert bad.describe()["record"] == 2


@pytest.mark.skipif(not FORMATS.exists(), reason="needs the shared reference data")
def test_published_files_are_read() -> None:
    found = list(read_conversations(str(FORMATS / "gpt4v_captions_5.json")))
    assert len(found) == 5
    assert all(isinstance(one, Conversation) and one.image_turns == (0,) for one in found)
