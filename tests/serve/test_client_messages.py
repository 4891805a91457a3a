"""Messages as clients send them: roles, parts, order and images."""

import base64
import hashlib
from typing import Any

import pytest

from s4v_core.engines.requests import Request
from tests.conftest import photo
from tests.serve.in_process import House, error_of
from tests.serve.service import data_url

IMAGES = [data_url(photo(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def house() -> House:
    return House()


@pytest.fixture(scope="module")
def many() -> House:
    """A model that takes several images."""
    return House({"images": 3})


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def image(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": IMAGES[number]} | more}


def ask(house: House, *messages: dict[str, Any]) -> Request:
    """Send messages that are to be answered; returns what the engine was asked."""
    answer = house.chat(list(messages))
    assert answer.status_code == 200, answer.text
    return house.replica.asked[-1][0]


CONVERSATIONS: list[tuple[list[Any], str | None, list[tuple[str, str]], str]] = [
    ([say("user", "a")], None, [], "a"),
    ([say("user", [])], None, [], ""),
    ([say("user", [text("a"), text("b")])], None, [], "a\nb"),
    ([say("developer", "s"), say("user", "a")], "s", [], "a"),
    ([say("system", [text("s")]), say("user", "a")], "s", [], "a"),
    ([say("system", "s"), say("system", "t"), say("user", "a")], "s\nt", [], "a"),
    ([say("system", "s"), say("developer", "t"), say("user", "a")], "s\nt", [], "a"),
    ([say("user", "a"), say("system", "s")], "s", [], "a"),
    ([say("user", "a"), say("system", "s"), say("user", "b")], "s", [], "a\nb"),
    ([say("system", "s")], "s", [], ""),
    ([say("user", "a"), say("user", "b")], None, [], "a\nb"),
    ([say("user", "a"), say("user", "b"), say("user", "c")], None, [], "a\nb\nc"),
    ([say("assistant", "Hello"), say("user", "a")], None, [("", "Hello")], "a"),
    ([say("system", "s"), say("assistant", "H"), say("user", "a")], "s", [("", "H")], "a"),
    ([say("user", "a"), say("assistant", "x")], None, [("a", "x")], ""),
    ([say("assistant", "x")], None, [("", "x")], ""),
    (
        [say("user", "a"), say("assistant", "x"), say("assistant", "y"), say("user", "b")],
        None,
        [("a", "x\ny")],
        "b",
    ),
    ([say("user", "a"), say("assistant", None), say("user", "b")], None, [("a", "")], "b"),
    ([say("user", "a"), {"role": "assistant"}, say("user", "b")], None, [("a", "")], "b"),
    (
        [say("user", "a"), say("assistant", None, refusal="No."), say("user", "b")],
        None,
        [("a", "No.")],
        "b",
    ),
    (
        [
            say("user", "a"),
            say("assistant", [{"type": "refusal", "refusal": "No."}]),
            say("user", "b"),
        ],
        None,
        [("a", "No.")],
        "b",
    ),
    (
        [
            say("user", "a", id="1"),
            say("assistant", "x", refusal=None, annotations=[], audio=None, tool_calls=None),
            say("user", "b", name="n"),
        ],
        None,
        [("a", "x")],
        "b",
    ),
    (
        [
            say("user", "a"),
            say("assistant", "x", tool_calls=[], function_call=None, reasoning_content="hm"),
            say("user", [text("b", cache_control={"type": "ephemeral"})]),
        ],
        None,
        [("a", "x")],
        "b",
    ),
]


@pytest.mark.parametrize(("messages", "system", "earlier", "question"), CONVERSATIONS, ids=str)
def test_messages_in_any_order_become_a_conversation(
    house: House, messages: list[Any], system: str | None, earlier: Any, question: str
) -> None:
    asked = ask(house, *messages)
    assert (asked.system, list(asked.earlier), asked.prompt) == (system, earlier, question)


WRONG: list[tuple[list[Any], str]] = [
    ([], "messages"),
    ([say("user", None)], "messages[0].content"),
    ([{"role": "user"}], "messages[0].content"),
    ([say("system", None), say("user", "a")], "messages[0].content"),
    ([say("User", "a")], "messages[0]"),
    ([say("tool", "a", tool_call_id="1")], "messages[0]"),
    ([say("function", "a", name="f")], "messages[0]"),
    ([{"content": "a"}], "messages[0]"),
    ([say("user", 3)], "messages[0].content"),
    ([say("user", {"type": "text", "text": "a"})], "messages[0].content"),
    ([say("user", ["a"])], "messages[0].content[0]"),
    ([say("user", [{"type": "video_url"}])], "messages[0].content[0]"),
    ([say("user", [text("a"), {"type": "input_audio"}])], "messages[0].content[1]"),
    ([say("user", [{"type": "file", "file": {}}])], "messages[0].content[0]"),
    ([say("user", [{"type": "image_pil"}])], "messages[0].content[0]"),
    ([say("user", [{"text": "a"}])], "messages[0].content[0]"),
    ([say("user", [{"type": "text"}])], "messages[0].content[0].text"),
    ([say("user", [text(3)])], "messages[0].content[0].text"),  # type: ignore[arg-type]
    ([say("user", [{"type": "image_url"}])], "messages[0].content[0].image_url"),
    ([say("user", [{"type": "image_url", "image_url": 3}])], "messages[0].content[0].image_url"),
    (
        [say("user", [{"type": "image_url", "image_url": {}}])],
        "messages[0].content[0].image_url.url",
    ),
    ([say("system", [image()]), say("user", "a")], "messages[0].content[0].image_url"),
    (
        [say("user", "a"), say("assistant", [image()]), say("user", "b")],
        "messages[1].content[0].image_url",
    ),
    (
        [say("user", "a"), say("assistant", None, tool_calls=[{"id": "1"}]), say("user", "b")],
        "messages[1].tool_calls",
    ),
    ([say("user", "a")] * 65, "messages"),
    ([say("user", "a" * 65_537)], "messages"),
]


@pytest.mark.parametrize(("messages", "param"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_part_is_refused_with_its_place(
    house: House, messages: list[Any], param: str
) -> None:
    answer = house.chat(messages)
    status, _, found = error_of(answer)
    assert (status, found) == (400, param), answer.text
    message = answer.json()["error"]["message"]
    assert ".str" not in message
    assert "list[" not in message


def sha(number: int) -> str:
    data = base64.b64decode(IMAGES[number].partition(",")[2])
    return hashlib.sha256(data).hexdigest()


def test_images_of_several_turns_reach_their_turns(many: House) -> None:
    asked = ask(
        many,
        say("user", [image(0), text("first")]),
        say("assistant", "x"),
        say("user", [text("second"), image(1)]),
        say("user", [image(2)]),
    )
    assert asked.image_turns == (0, 1, 1)
    assert asked.earlier == (("first", "x"),)
    assert asked.prompt == "second"
    assert asked.content.endswith(sha(0) + sha(1) + sha(2))


def test_images_behind_a_greeting_reach_their_turns(many: House) -> None:
    asked = ask(many, say("assistant", "Hello"), say("user", [image(1), text("a")]))
    assert asked.image_turns == (1,)


def test_more_images_than_a_model_takes_are_refused_in_a_sentence(
    house: House, many: House
) -> None:
    answer = house.chat([say("user", [image(0), image(1)])])
    place = "messages[0].content[1].image_url"
    assert error_of(answer) == (400, "too_many_images", place)
    assert "at most one image" in answer.json()["error"]["message"]
    turns = [say("user", [image(0)]), say("assistant", "x"), say("user", [image(0)])]
    assert error_of(house.chat(turns))[2] == "messages[2].content[0].image_url"
    found = many.chat([say("user", [image(0), image(1), image(2), image(0)])])
    assert "at most 3 images" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "part",
    [
        image(),
        {"type": "image_url", "image_url": IMAGES[0]},
        {"type": "image_url", "image_url": f" {IMAGES[0]}\n"},
        *(image(detail=detail) for detail in ("low", "high", "auto", "original", None)),
        image() | {"cache_control": {"type": "ephemeral"}},
        image() | {"uuid": "1"},
        image(format="image/jpeg"),
    ],
    ids=lambda part: str(part)[-50:],
)
def test_an_image_is_taken_in_every_form(house: House, part: dict[str, Any]) -> None:
    asked = ask(house, say("user", [part, text("What?")]))
    assert len(asked.images) == 1
    assert asked.content.endswith(sha(0))


def test_a_dumped_answer_can_be_sent_back(house: House) -> None:
    first = house.chat([say("user", "a")]).json()["choices"][0]["message"]
    asked = ask(house, say("user", "a"), first, say("user", "b"))
    assert asked.earlier == (("a", "A fake answer to 'a'."),)
