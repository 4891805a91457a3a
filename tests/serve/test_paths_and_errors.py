"""Paths, methods, headers and errors, as clients and balancers know them."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from s4v_core.engines.requests import Generation, refuse
from serve.front.exchange import Message, Receive, Scope, Send
from serve.front.shedding import Shedding
from serve.keys import Key
from tests.conftest import photo
from tests.serve.in_process import MODEL, SECRET, House, error_of

GETS = ("/health", "/healthz", "/readyz", "/version", "/v1/models", f"/v1/models/{MODEL}")


@pytest.fixture(scope="module")
def house() -> House:
    return House({"settings": {"max_model_len": 64}})


@pytest.mark.parametrize("path", [*GETS, "/openapi.json", "/"])
def test_head_is_where_get_is(house: House, path: str) -> None:
    got, head = house.send("GET", path), house.send("HEAD", path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize("path", ["/nothing", "/v1/models/none", "/v1/chat/completions"])
def test_head_of_an_error_has_no_body(house: House, path: str) -> None:
    got, head = house.send("GET", path), house.send("HEAD", path)
    assert head.status_code == got.status_code
    assert head.status_code in (404, 405)
    assert head.content == b""


@pytest.mark.parametrize("path", [*GETS, "/v1/chat/completions"])
def test_a_slash_at_the_end_is_no_other_path(house: House, path: str) -> None:
    if path == "/v1/chat/completions":
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        assert house.post(f"{path}/", body).status_code == 200
    else:
        assert house.send("GET", f"{path}/").status_code == 200


@pytest.mark.parametrize("path", ["/v1/models/", "/healthz/", "/health/", "/v1/completions/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_spelling_opens_a_path_or_redirects(house: House, path: str, method: str) -> None:
    answer = house.send(method, path, headers={"host": "evil.example"})
    assert answer.status_code == 401
    assert "location" not in answer.headers


def test_health_is_open_and_the_rest_is_not(house: House) -> None:
    found = {path: house.send("GET", path, headers={}).status_code for path in GETS}
    open_paths = {path for path, status in found.items() if status == 200}
    assert open_paths == {"/health", "/healthz", "/readyz"}
    assert house.send("POST", "/tokenize", headers={}, json={"prompt": "a"}).status_code == 401


def test_models_say_how_long_a_prompt_may_be(house: House) -> None:
    assert house.send("GET", "/v1/models").json()["data"][0]["max_model_len"] == 64
    assert house.send("GET", f"/v1/models/{MODEL}").json()["max_model_len"] == 64
    assert House().send("GET", "/v1/models").json()["data"][0]["max_model_len"] is None


@pytest.mark.parametrize("name", ["none", "org/name", "org/name/more", "a%2Fb", "gpt-4o"])
def test_an_unknown_model_is_said_to_be_one(house: House, name: str) -> None:
    assert error_of(house.send("GET", f"/v1/models/{name}")) == (404, "model_not_found", "model")
    assert error_of(house.chat(model=name)) == (404, "model_not_found", "model")


def test_tokenize_counts_what_a_prompt_becomes(house: House) -> None:
    found = house.post("/tokenize", {"model": MODEL, "prompt": "three small words"}).json()
    assert (found["count"], found["max_model_len"]) == (3, 64)
    assert len(found["tokens"]) == 3
    messages = [{"role": "system", "content": "a b"}, {"role": "user", "content": "c"}]
    assert house.post("/tokenize", {"messages": messages}).json()["count"] == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "a" * 65_537}, "prompt"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_tokenize_refuses_what_is_no_text(house: House, body: Any, param: str) -> None:
    status, _, found = error_of(house.post("/tokenize", body))
    assert (status, found) == (400, param)


LONG = "word " * 70


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(house: House) -> None:
    image = {"image": base64.b64encode(photo(1)).decode(), "prompt": LONG}
    answers = {
        "messages": house.chat([{"role": "user", "content": LONG}]),
        "input": house.post("/v1/responses", {"model": MODEL, "input": LONG}),
        "prompt": house.post("/v1/completions", {"model": MODEL, "prompt": LONG}),
    }
    answers |= {"prompt ": house.post("/v1/caption", image)}
    for param, answer in answers.items():
        assert error_of(answer) == (400, "context_length_exceeded", param.strip())
        message = answer.json()["error"]["message"]
        assert "64 tokens" in message
        assert "70 tokens" in message or "71 tokens" in message
    streamed = house.chat([{"role": "user", "content": LONG}], stream=True)
    assert error_of(streamed)[:2] == (400, "context_length_exceeded")
    line = house.post("/v1/captions", {"images": [image]}).json()
    assert line["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("words", "code", "numbers"),
    [
        (
            "The decoder prompt (length 5000) is longer than the maximum model length of 2048. "
            "Make sure that `max_model_len` is no smaller than the number of text tokens.",
            "context_length_exceeded",
            ("5000", "2048"),
        ),
        (
            "The decoder prompt (length 2048) plus the number of requested output tokens (at least "
            "1) is longer than the maximum model length of 2048. Make sure",
            "context_length_exceeded",
            ("2048", "2048"),
        ),
        (
            "This model's maximum context length is 2048 tokens. However, your prompt contains at "
            "least 2049 input tokens, which exceeds this limit even without any output tokens.",
            "context_length_exceeded",
            ("2048", "2049"),
        ),
        (
            "token_id(s) [999999] in logit_bias contain out-of-vocab token ids.",
            "bad_logit_bias",
            (),
        ),
        ("secret words of the engine", "engine_refused", ()),
    ],
)
def test_the_words_of_vllm_are_read_and_not_repeated(
    house: House, words: str, code: str, numbers: tuple[str, ...]
) -> None:
    house.replica.answer = refuse(ValueError(words))
    try:
        answer = house.chat()
    finally:
        house.replica.answer = None
    assert error_of(answer)[:2] == (400, code)
    message = answer.json()["error"]["message"]
    assert all(number in message for number in numbers)
    assert "Make sure" not in message
    assert "secret" not in message


def test_an_answer_that_takes_too_long_has_a_type_of_its_own() -> None:
    house = House({"settings": {"fake_latency_s": 2.0}}, limits={"timeout_s": 0.2})
    answer = house.chat()
    assert answer.status_code == 504
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("engine_timeout_error", "timeout")
    others = {
        house.chat(n=2).json()["error"]["type"],
        house.chat(model="x").json()["error"]["type"],
    }
    assert error["type"] not in others


def test_an_error_in_the_middle_of_a_stream_is_an_event() -> None:
    house = House()

    async def stream(_: Any, __: Any) -> AsyncIterator[str | Generation]:
        yield "A"
        yield refuse("broken")

    house.replica._stream = stream  # type: ignore[method-assign]
    chat = house.chat(stream=True).text
    assert '"code": "engine_refused"' not in chat.split("data: ")[1]
    assert chat.rstrip().endswith("data: [DONE]")
    assert '"error": {' in chat
    body = {"model": MODEL, "input": "a", "stream": True}
    last = house.post("/v1/responses", body).text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\ndata: {")


def test_errors_of_bodies_say_what_is_wrong(house: House) -> None:
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    for content, start in (
        (b"", "body"),
        (b"[]", "body"),
        (b"{", "body"),
        (b'{"model": 3}', "model"),
        (b"{}", "model"),
    ):
        answer = house.send("POST", "/v1/chat/completions", content=content, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(start), answer.text


def test_the_openai_client_sees_code_and_param(house: House) -> None:
    async def run() -> None:
        message: Any = {"role": "user", "content": "Hi"}
        await house.openai().chat.completions.create(
            model=MODEL, messages=[message], extra_body={"tools": [{"type": "function"}]}
        )

    with pytest.raises(openai.BadRequestError) as error:
        asyncio.run(run())
    assert (error.value.code, error.value.param) == ("unsupported_parameter", "tools")


def test_answers_say_what_is_left_of_a_keys_rate() -> None:
    house = House(guard={"requests_per_minute": 3})
    found = [house.send("GET", "/v1/models") for _ in range(4)]
    assert [answer.status_code for answer in found] == [200, 200, 200, 429]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in found]
    assert left == ["2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in found} == {"3"}
    assert found[-1].headers["x-ratelimit-reset-requests"] == "60s"
    assert "x-ratelimit-limit-requests" not in house.send("GET", "/healthz", headers={}).headers
    assert Key("a", hashlib.sha256(b"a").digest()).requests_per_minute is None


def test_an_answer_through_rays_proxy_has_one_request_id() -> None:
    async def proxy(scope: Scope, _: Receive, send: Send) -> None:
        ids = [(b"x-request-id", b"ours"), (b"x-a", b"b"), (b"X-Request-ID", b"rays")]
        await send({"type": "http.response.start", "status": 200, "headers": ids})
        await send({"type": "http.response.body", "body": b""})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    for method, path in (("GET", "/healthz"), ("POST", "/v1/chat/completions")):
        sent.clear()
        scope = {"type": "http", "method": method, "path": path, "headers": []}
        asyncio.run(Shedding(proxy, on_refusal=lambda _: None)(scope, receive, send))
        assert sent[0]["headers"] == [(b"x-request-id", b"ours"), (b"x-a", b"b")]


def test_the_document_names_every_route(house: House) -> None:
    paths = house.send("GET", "/openapi.json").json()["paths"]
    assert {"/v1/responses", "/tokenize", "/version", "/health"} <= paths.keys()
    assert all("head" not in methods for methods in paths.values())


@pytest.mark.parametrize("depth", [100, 900, 5000, 100_000])
def test_a_deep_body_breaks_nothing(house: House, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    for path, start in (
        ("/v1/chat/completions", '"messages": [{"role": "user", "content": "a"}], '),
        ("/v1/responses", '"input": "a", "text": {"format": {"type": "text", "x": DEEP}}, '),
        ("/v1/responses", '"input": "a", "metadata": {"a": DEEP}, '),
        ("/v1/chat/completions", '"messages": [{"role": "user", "content": "a", "x": DEEP}], '),
        ("/v1/chat/completions", '"messages": DEEP, '),
        ("/v1/captions", '"images": DEEP, '),
    ):
        fields = start.replace("DEEP", deep)
        content = f'{{{fields}"model": "{MODEL}", "foo": {deep}}}'
        answer = house.send("POST", path, content=content, headers=headers)
        assert answer.status_code in (200, 400), (path, answer.text)


@pytest.mark.parametrize("value", [b"\xed\xa0\x80", b"\xff\xfe", "\u00e4".encode("latin-1")])
def test_a_form_field_that_is_no_text_breaks_nothing(house: House, value: bytes) -> None:
    line = b'--x\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    file = line % (b"image", b'; filename="a.jpg"', photo(1))
    content = file + line % (b"prompt", b"", value) + b"--x--\r\n"
    kind = "multipart/form-data; boundary=x"
    headers = {"authorization": f"Bearer {SECRET}", "content-type": kind}
    answer = house.send("POST", "/v1/caption", content=content, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        answer.json()["prompt"].encode()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", path, 404) for path in ("/v1", "/ping", "/docs", "/favicon.ico", "/redoc")),
        *(("POST", path, 404) for path in ("/chat/completions", "/v1/messages", "/v1/moderations")),
        *(("POST", path, 404) for path in ("/v1/embeddings", "/v1/audio/speech", "/v1/files")),
        *(("GET", path, 404) for path in ("/v1/responses/resp_1", "/v1/chat/completions/x")),
        *(("GET", path, 405) for path in ("/v1/chat/completions", "/v1/responses", "/tokenize")),
        *((method, "/v1/models", 405) for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")),
    ],
)
def test_other_paths_and_methods_are_refused(
    house: House, method: str, path: str, status: int
) -> None:
    answer = house.send(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] in ("not_found", "method_not_allowed")


TURN = '"messages": [{"role": "user", "content": "Hi"}]'
WHOLE = f'{{"model": "{MODEL}", {TURN}}}'


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (WHOLE.encode(), 200),
        (b"\xef\xbb\xbf" + WHOLE.encode(), 200),
        (WHOLE.encode("utf-16"), 200),
        (WHOLE.replace("Hi", "\u4f60\u597d \u05e9\u05dc\u05d5\u05dd").encode(), 200),
        (f'{{"model": "none", "model": "{MODEL}", {TURN}}}'.encode(), 200),
        (WHOLE.replace("Hi", "\u00e4").encode("latin-1"), 400),
        (f'{{"model": "{MODEL}", "temperature": NaN, {TURN}}}'.encode(), 400),
        (f'{{"model": "{MODEL}", "top_p": Infinity, {TURN}}}'.encode(), 400),
        (f'{{"model": "{MODEL}", "logit_bias": {{"1": NaN}}, {TURN}}}'.encode(), 400),
        (f'{{"model": "{MODEL}", "seed": {"9" * 5000}, {TURN}}}'.encode(), 400),
        (f'{{"model": "{MODEL}", "max_tokens": 1e400, {TURN}}}'.encode(), 400),
        (f"[{WHOLE}]".encode(), 400),
        (WHOLE[:-1].encode(), 400),
        (b"null", 400),
        (b'"text"', 400),
        (b"\x00", 400),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_body_is_read_as_json_or_refused(house: House, content: bytes, status: int) -> None:
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    answer = house.send("POST", "/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == status, answer.text
