"""Requests of clients, answered by the real engine."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.conftest import photo
from tests.serve.service import ALONE, Service, about, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = "demo"
IMAGE = photo(1)


@pytest.fixture(scope="module")
def service(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    model = {"id": MODEL, "path": "demo", "scaling": ALONE, "settings": {"cpus": 1}}
    with served(tmp_path_factory.mktemp("served"), model) as found:
        yield found


def chat(service: Service, **fields: Any) -> Any:
    asked: dict[str, Any] = {"model": MODEL, "messages": about(IMAGE), "temperature": 0}
    extra = {"extra_body": fields.pop("extra_body", {})}
    return service.openai().chat.completions.create(**(asked | fields), **extra)


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def test_an_answer_ends_before_its_stop_text(service: Service) -> None:
    whole = text_of(chat(service))
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    answer = chat(service, stop=[middle, "never said"])
    assert text_of(answer).rstrip() == whole[: whole.index(middle)].rstrip()
    assert answer.choices[0].finish_reason == "stop"
    pieces = [
        piece.choices[0].delta.content or ""
        for piece in chat(service, stop=middle, stream=True)
        if piece.choices
    ]
    assert "".join(pieces).rstrip() == text_of(answer).rstrip()


def test_top_p_of_0_and_top_k_of_1_are_greedy(service: Service) -> None:
    greedy = text_of(chat(service))
    assert text_of(chat(service, temperature=1.5, top_p=0)) == greedy
    assert text_of(chat(service, temperature=1.5, extra_body={"top_k": 1})) == greedy


def test_a_bias_forbids_tokens(service: Service) -> None:
    with service.http() as client:
        # An answer begins with a space, and BOS stands before every text.
        asked = {"model": MODEL, "prompt": f" {text_of(chat(service))}"}
        _, first, *_ = client.post("/tokenize", json=asked).json()["tokens"]
    assert text_of(chat(service, logit_bias={str(first): -100})) != text_of(chat(service))


def test_an_answer_goes_on_as_long_as_a_benchmark_asks(service: Service) -> None:
    answer = chat(service, max_tokens=120, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 120
    assert answer.choices[0].finish_reason == "length"
    short = chat(service, max_tokens=60, extra_body={"min_tokens": 60})
    assert short.usage.completion_tokens == 60


def test_an_answer_follows_a_schema(service: Service) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"enum": [1, 2, 3]}, "kind": {"enum": ["photo", "drawing"]}},
        "required": ["count", "kind"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = json.loads(text_of(chat(service, response_format=form)))
    assert isinstance(found["count"], int)
    assert found["kind"] in ("photo", "drawing")
    answer = service.openai().responses.create(
        model=MODEL,
        input="Say it.",
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
    )
    assert json.loads(answer.output_text).keys() == {"count", "kind"}


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"999999999": 5}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "odd"}}}},
    ],
    ids=str,
)
def test_what_vllm_refuses_is_400_and_breaks_nothing(service: Service, fields: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        chat(service, **fields)
    assert text_of(chat(service))


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(service: Service) -> None:
    length = service.openai().models.retrieve(MODEL).model_extra
    assert length
    most = length["max_model_len"]
    with pytest.raises(openai.BadRequestError) as error:
        chat(service, messages=about(IMAGE, "word " * (most + 10)))
    assert error.value.code == "context_length_exceeded"
    assert str(most) in error.value.message
    with service.http() as client:
        body = {"image": about(IMAGE)[0]["content"][0]["image_url"]["url"], "prompt": "a " * most}
        answer = client.post("/v1/caption", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "Hello."}, *about(IMAGE)],
        [{"role": "developer", "content": "Be brief."}, *about(IMAGE)],
        [*about(IMAGE), {"role": "user", "content": "And now?"}],
        [*about(IMAGE), {"role": "assistant", "content": None}, {"role": "user", "content": "So?"}],
        [*about(IMAGE), {"role": "assistant", "content": "A picture of"}],
    ],
    ids=lambda messages: ", ".join(message["role"] for message in messages),
)
def test_messages_in_any_order_are_answered(service: Service, messages: Any) -> None:
    assert chat(service, messages=messages).usage.completion_tokens > 0


def test_a_lone_surrogate_is_400_and_no_traceback(service: Service) -> None:
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "\\ud800"}]}'
    headers = {"content-type": "application/json"}
    with service.http() as client:
        answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]
