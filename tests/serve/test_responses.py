"""/v1/responses: OpenAI's newer form of a conversation, whole and streamed."""

import asyncio
import json
from typing import Any

import openai
import pytest

from s4v_core.engines.requests import Generation
from s4v_core.engines.sampling import list_client_changes
from tests.conftest import photo
from tests.flow.oracle import fake_caption_of
from tests.serve.in_process import MODEL, House, error_of
from tests.serve.service import data_url

IMAGE = photo(1)
SAID = fake_caption_of(IMAGE)
ABOUT = {"role": "user", "content": [{"type": "input_image", "image_url": data_url(IMAGE)}]}


@pytest.fixture(scope="module")
def house() -> House:
    return House(decode={"reduced_jpeg": False})


def respond(house: House, asked: Any, **fields: Any) -> Any:
    return house.post("/v1/responses", {"model": MODEL, "input": asked} | fields)


def events_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name.removeprefix("event: ") for name, _ in blocks] == [e["type"] for e in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def test_the_openai_client_reads_a_response(house: House) -> None:
    async def run() -> Any:
        return await house.openai().responses.create(model=MODEL, input=[ABOUT])  # type: ignore[list-item]

    found = asyncio.run(run())
    assert found.output_text == SAID
    assert (found.status, found.error, found.incomplete_details) == ("completed", None, None)
    assert found.usage.output_tokens == len(SAID.split())
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens


def test_the_openai_client_streams_a_response(house: House) -> None:
    async def run() -> list[Any]:
        client = house.openai()
        stream = await client.responses.create(model=MODEL, input="Hello", stream=True)
        return [event async for event in stream]

    events = asyncio.run(run())
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "A fake answer to 'Hello'."
    assert len(deltas) > 2
    assert events[-1].response.output_text == "A fake answer to 'Hello'."


def test_the_openai_clients_stream_helper_follows(house: House) -> None:
    async def run() -> Any:
        async with house.openai().responses.stream(model=MODEL, input="Hello") as stream:
            async for _ in stream:
                pass
            return await stream.get_final_response()

    assert asyncio.run(run()).output_text == "A fake answer to 'Hello'."


def test_a_stream_has_the_events_of_openai_in_order(house: House) -> None:
    events = events_of(respond(house, "Hello", stream=True))
    kinds = [event["type"] for event in events]
    pieces = kinds.count("response.output_text.delta")
    assert kinds == [
        *("response.created", "response.in_progress", "response.output_item.added"),
        *("response.content_part.added", *["response.output_text.delta"] * pieces),
        *("response.output_text.done", "response.content_part.done"),
        *("response.output_item.done", "response.completed"),
    ]
    item = events[2]["item"]["id"]
    assert {event["item_id"] for event in events if "item_id" in event} == {item}
    whole = respond(house, "Hello").json()
    assert events[-1]["response"].keys() == whole.keys()


def test_a_conversation_of_responses_goes_on(house: House) -> None:
    first = respond(house, [ABOUT], store=False).json()
    question = {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]}
    again = respond(house, [ABOUT, *first["output"], question], instructions="Be brief.")
    assert again.status_code == 200, again.text
    asked = house.replica.asked[-1][0]
    assert (asked.system, asked.earlier, asked.prompt) == ("Be brief.", (("", SAID),), "And now?")
    assert asked.image_turns == (0,)


INPUTS: list[tuple[Any, str]] = [
    ("a", "a"),
    ([{"role": "user", "content": "a"}], "a"),
    ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}], "a"),
    ([{"role": "developer", "content": "s"}, {"role": "user", "content": "a"}], "a"),
    ([{"type": "reasoning", "summary": []}, {"role": "user", "content": "a"}], "a"),
    (
        [
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "y", "annotations": []}],
                "status": "completed",
                "id": "msg_1",
            },
            {"role": "user", "content": "a"},
        ],
        "a",
    ),
]


@pytest.mark.parametrize(("asked", "question"), INPUTS, ids=lambda value: str(value)[:40])
def test_input_is_taken_in_every_form(house: House, asked: Any, question: str) -> None:
    assert respond(house, asked).status_code == 200
    assert house.replica.asked[-1][0].prompt == question


NOTHING: list[dict[str, Any]] = [
    *({"store": True}, {"include": []}, {"truncation": "auto"}, {"tools": []}, {"metadata": {}}),
    *({"reasoning": {"effort": "low"}}, {"text": {"format": {"type": "text"}}}, {"text": {}}),
    *({"text": {"verbosity": "low"}}, {"previous_response_id": None}, {"background": False}),
    *({"parallel_tool_calls": True}, {"tool_choice": "auto"}, {"stream": None}, {"user": "x"}),
    *({"service_tier": "auto"}, {"prompt_cache_key": "x"}, {"instructions": None}, {"foo": 1}),
    *({"max_output_tokens": None}, {"top_logprobs": 0}, {"max_tool_calls": None}, {"prompt": None}),
]


@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_a_field_that_changes_nothing_is_ignored(house: House, fields: dict[str, Any]) -> None:
    answer = respond(house, "Hello", **fields)
    assert answer.status_code == 200, answer.text
    assert list_client_changes(house.replica.asked[-1][1]) == {}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"background": True}, "background"),
    ({"max_output_tokens": 4096}, "max_output_tokens"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "function_call_output", "call_id": "1"}]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "text"}]}]}, "input[0].content[0]"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input[0].content[0].image_url",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0].image_url",
    ),
    ({"input": [ABOUT, ABOUT]}, "input[1].content[0].image_url"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_wrong_field_is_refused_with_its_place(
    house: House, fields: dict[str, Any], param: str
) -> None:
    answer = respond(house, "Hello", **fields)
    status, _, found = error_of(answer)
    assert (status, found) == (400, param), answer.text


def test_a_response_follows_a_schema(house: House) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    found = respond(house, "Hello", text={"format": form}).json()
    assert isinstance(json.loads(found["output"][0]["content"][0]["text"])["a"], int)
    assert found["text"]["format"]["schema"] == schema
    assert respond(house, "Hello", text={"format": {"type": "json_object"}}).status_code == 200


def test_a_cut_response_says_so(house: House) -> None:
    house.replica.answer = Generation("A f", "length", 3, 2)
    try:
        found = respond(house, "Hello", max_output_tokens=2).json()
        streamed = events_of(respond(house, "Hello", stream=True))
    finally:
        house.replica.answer = None
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    assert streamed[-1]["type"] == "response.incomplete"


def test_an_unknown_model_is_the_clients_not_found(house: House) -> None:
    async def run() -> None:
        await house.openai().responses.create(model="gpt-4o", input="Hello")

    with pytest.raises(openai.NotFoundError) as error:
        asyncio.run(run())
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
