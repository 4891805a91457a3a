"""Endpoints of today's kinds: parameters that they refuse, and the forms of their answers."""

import asyncio
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest

from s4v_core.engines import endpoint as endpoint_module
from s4v_core.engines.choice import choose_engine, start_engine
from s4v_core.engines.endpoint_answers import read_answer
from s4v_core.engines.endpoint_parameters import EndpointParameters
from s4v_core.engines.endpoint_problems import Problem, read_problem
from s4v_core.engines.fake import fake_caption
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import EngineError
from tests.engines import endpoint_kinds as kinds
from tests.engines.weather_endpoint import Reply, WeatherEndpoint, open_endpoint

DRAWN = SamplingConfig(max_tokens=50, temperature=0.2, top_p=0.9, repetition_penalty=1.05)
CAPTION = "A cat on a mat."
PARAMETERS = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeatherEndpoint]:
    monkeypatch.setattr(endpoint_module, "FIRST_PAUSE_S", 0.05)
    with open_endpoint() as found:
        yield found


def _build_request(number: int = 0, prefill: str = "", schema: str | None = None) -> Request:
    chance = np.random.default_rng(number)
    picture = chance.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    key = f"{number}"
    return Request(key, key, (picture,), "What is it?", prefill=prefill, answer_schema=schema)


def _ask(
    endpoint: WeatherEndpoint,
    *requests: Request,
    how: SamplingConfig = DRAWN,
    at_once: bool = True,
) -> tuple[list[Generation], str]:
    """The answers, and the engine's version behind them."""
    settings = EngineSettings(url=endpoint.url, endpoint_patience_s=20.0)
    engine = start_engine(choose_engine("openai", "teacher", "model", settings))

    async def ask() -> list[Generation]:
        if at_once:
            return list(await asyncio.gather(*(engine.generate(r, how) for r in requests)))
        return [await engine.generate(request, how) for request in requests]

    return asyncio.run(ask()), engine.version


def _answer(endpoint: WeatherEndpoint, reply: Reply) -> Generation:
    endpoint.reply = reply
    [answer], _ = _ask(endpoint, _build_request())
    return answer


def _read(reply: Reply) -> Generation:
    """Read an answer with status 200, without the cost of a connection."""
    made = reply({"model": "teacher"}, CAPTION)
    assert made
    assert made[0] == 200
    found = read_answer(json.dumps(made[1]))
    assert isinstance(found, Generation)
    return found


@pytest.mark.parametrize(
    ("reply", "sent", "version"),
    [
        (
            kinds.reply_like_gpt5,
            {"max_completion_tokens": 50},
            "(max_tokens as max_completion_tokens; without repetition_penalty, temperature, top_p)",
        ),
        (
            kinds.reply_like_mistral,
            {"max_tokens": 50, "temperature": 0.2, "top_p": 0.9},
            "(without repetition_penalty, seed)",
        ),
        (kinds.reply_like_litellm, {"max_tokens": 50, "top_p": 0.9}, "(without temperature)"),
        (kinds.reply_like_anthropic, {"max_tokens": 50, "temperature": 0.2}, "(without top_p)"),
        (kinds.reply_like_openrouter, {"max_tokens": 50, "temperature": 0.2}, "(without top_p)"),
    ],
)
def test_a_refused_parameter_is_left_out_of_this_request_and_all_later_ones(
    endpoint: WeatherEndpoint,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
    sent: dict[str, float],
    version: str,
) -> None:
    endpoint.reply = reply
    requests = [_build_request(number) for number in range(4)]
    with caplog.at_level(logging.WARNING):
        answers, found = _ask(endpoint, *requests, at_once=False)
    assert [a.text for a in answers] == [fake_caption(r.images[0]) for r in requests]
    assert found.endswith(version)
    last = endpoint.requests[-1]
    assert {n: v for n, v in last.items() if n in PARAMETERS and n != "seed"} == sent
    assert ("seed" in last) == ("seed" not in version)
    changes = version.count(",") + 1 + version.count(";")
    assert len(endpoint.requests) == 4 + changes
    assert len([r for r in caplog.records if "does not take" in r.message]) == changes


def test_requests_at_once_adapt_together_and_warn_once(
    endpoint: WeatherEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.reply, endpoint.delay_s = kinds.reply_like_gpt5, 0.1
    requests = [_build_request(number) for number in range(12)]
    with caplog.at_level(logging.WARNING):
        answers, _ = _ask(endpoint, *requests)
    assert all(answer.text for answer in answers)
    assert len([r for r in caplog.records if "does not take" in r.message]) == 4


def test_an_endpoint_that_takes_everything_gets_everything(endpoint: WeatherEndpoint) -> None:
    [answer], version = _ask(endpoint, _build_request())
    assert answer.text
    assert "(" not in version
    assert {*PARAMETERS, "repetition_penalty"} - endpoint.requests[0].keys() == {
        "max_completion_tokens"
    }


def test_a_seed_that_does_not_fit_is_left_out(endpoint: WeatherEndpoint) -> None:
    requests = [_build_request(number) for number in range(8)]
    seeds = [DRAWN.seed_of(request.content) or 0 for request in requests]
    assert max(seeds) >= 1 << 31
    endpoint.reply = kinds.reply_like_gemini
    answers, version = _ask(endpoint, *requests)
    assert all(answer.text and answer.output_tokens is None for answer in answers)
    assert version.endswith("(without seed)")


def test_a_length_that_is_too_large_is_refused_with_the_servers_words(
    endpoint: WeatherEndpoint,
) -> None:
    answer = _answer(endpoint, kinds.reply_too_long)
    assert answer.reason == "engine_refused:BadRequestError"
    assert "HTTP 400: 'max_tokens' or 'max_completion_tokens' is too large: 50." in str(
        answer.reason_detail
    )
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_refuses_without_end_is_asked_a_few_times_only(
    endpoint: WeatherEndpoint,
) -> None:
    words = "Unknown parameters: max_tokens, max_completion_tokens, temperature, top_p, seed."
    answer = _answer(endpoint, kinds.always(400, {"error": {"message": words}}))
    assert answer.reason_detail == f"HTTP 400: {words}"
    assert len(endpoint.requests) <= 8


@pytest.mark.parametrize(
    ("sentence", "parameter", "name"),
    [
        ("Unsupported value: 'temperature' does not support 0.2", None, "temperature"),
        ("temperature may only be set to 1 when thinking is enabled", None, "temperature"),
        ("`temperature` is deprecated for this model.", "temperature", "temperature"),
        ("Argument not supported on this model: seed", None, "seed"),
        ("body.topP: Unknown field", None, "top_p"),
        ("temperature: range: 0..1", "temperature", None),
        ("`temperature` must be strictly positive", None, None),
        ("max_tokens: 50 > 20, which is the maximum allowed for this model", "max_tokens", None),
        ("The picture shows a seed, and the temperature is low.", None, None),
        ("Invalid image: the data is no PNG.", None, None),
        ("Unsupported parameter: response_format", "response_format", None),
        ("At most 0 image(s) may be provided in one prompt.", None, None),
        ("property 'repetition_penalty' is unsupported", None, "repetition_penalty"),
        ("azure_ai does not support parameters: ['max_tokens', 'seed']", None, "seed"),
        ("This model only supports stream mode, please enable the stream parameter", None, None),
        ("Input validation error: `inputs` + `max_new_tokens` must be <= 4097", None, None),
    ],
)
def test_only_a_parameter_that_is_not_taken_is_left_out(
    sentence: str, parameter: str | None, name: str | None
) -> None:
    parameters = EndpointParameters()
    sent = parameters.build(DRAWN, "a")
    assert parameters.adapt(sent, Problem(sentence, parameter)) == (name is not None)
    assert sent.keys() - parameters.build(DRAWN, "a").keys() == ({name} if name else set())


def test_a_value_that_is_refused_after_others_were_taken_is_left_out_alone() -> None:
    parameters = EndpointParameters()
    greedy = DRAWN.replace(temperature=0.0)
    parameters.note_accepted(parameters.build(greedy, "a"))
    sent = parameters.build(DRAWN, "a")
    assert parameters.adapt(sent, Problem("'temperature' does not support 0.2", "temperature"))
    assert "temperature" not in parameters.build(DRAWN, "a")
    assert parameters.build(greedy, "a")["temperature"] == 0.0
    assert parameters.description == "without temperature=0.2"


THOUGHT = {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}}


@pytest.mark.parametrize(
    ("message", "thought"),
    [
        ({"content": "{text}", "reasoning_content": "Let me look."}, 30),
        ({"content": "{text}", "reasoning": "Let me look."}, 30),
        ({"content": "<think>Okay, </think>\n\n {text}"}, 30),
        ({"content": "Okay, a picture.\n</think>\n{text}"}, None),
        ({"content": "[THINK]Okay[/THINK]{text}"}, None),
        ({"content": [{"type": "text", "text": "{text}"}]}, None),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Let me look."}]},
                    {"type": "text", "text": "{text}"},
                ]
            },
            30,
        ),
        ({"content": "{text}", "refusal": None, "annotations": []}, None),
    ],
)
def test_only_the_answer_of_a_body_with_thinking_is_the_text(
    message: dict[str, object], thought: int | None
) -> None:
    answer = _read(kinds.answer_with(message, **(THOUGHT if thought else {})))
    assert (answer.text or "").strip() == CAPTION
    assert answer.thinking_tokens == thought
    assert answer.output_tokens == (40 if thought else 7)


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"content": "<think>Okay, so this picture"}, "length"),
        ({"content": None, "reasoning_content": "Okay, so"}, "length"),
        ({"content": "", "reasoning": "Okay, so"}, "length"),
    ],
)
def test_thinking_without_an_end_is_a_reason(message: dict[str, object], finish: str) -> None:
    answer = _read(kinds.answer_with(message, finish, **THOUGHT))
    assert (answer.text, answer.reason) == (None, "thinking_unfinished")
    assert (answer.output_tokens, answer.thinking_tokens) == (40, 30)
    assert "--sampling.max-tokens" in str(answer.reason_detail)


def test_thinking_goes_through_the_whole_client(endpoint: WeatherEndpoint) -> None:
    message = {"content": "<think>Okay</think>\n\n{text}", "reasoning_content": "Hm."}
    answer = _answer(endpoint, kinds.answer_with(message, **THOUGHT))
    assert answer.text == fake_caption(_build_request().images[0])
    assert (answer.output_tokens, answer.thinking_tokens) == (40, 30)


SAFE = {"hate": {"filtered": False, "severity": "safe"}}
VIOLENT = SAFE | {"violence": {"filtered": True, "severity": "high"}}
BLOCKED: list[tuple[Reply, str]] = [
    (kinds.answer_with({"content": None}, "content_filter"), "stopped: content_filter"),
    (kinds.answer_with({"content": "A man is"}, "content_filter: SAFETY"), "SAFETY"),
    (kinds.always(200, {"choices": [], "promptFeedback": {"blockReason": "OTHER"}}), "OTHER"),
    (
        kinds.always(
            200,
            {"choices": [], "prompt_filter_results": [{"content_filter_results": VIOLENT}]},
        ),
        "violence high",
    ),
    (
        kinds.always(
            400,
            {
                "error": {
                    "message": "The response was filtered.",
                    "code": "content_filter",
                    "innererror": {"code": "ResponsibleAIPolicyViolation"},
                }
            },
        ),
        "HTTP 400: The response was filtered.",
    ),
    (
        kinds.always(
            403,
            {
                "error": {
                    "code": 403,
                    "message": "Your input was flagged",
                    "metadata": {"reasons": ["violence"], "flagged_input": "What is it?"},
                }
            },
        ),
        "HTTP 403: Your input was flagged",
    ),
]


@pytest.mark.parametrize(("reply", "words"), BLOCKED)
def test_a_content_filter_refuses_one_request_and_is_no_weather(
    endpoint: WeatherEndpoint, reply: Reply, words: str
) -> None:
    answer = _answer(endpoint, reply)
    assert (answer.text, answer.reason) == (None, "engine_refused:content_filter")
    assert words in str(answer.reason_detail)
    assert len(endpoint.requests) == 1


def test_a_models_refusal_is_a_reason_with_its_words() -> None:
    message = {"content": None, "refusal": "I'm sorry, I can't help with that."}
    answer = _read(kinds.answer_with(message, **THOUGHT))
    assert answer.reason == "engine_refused:model_refusal"
    assert answer.reason_detail == "I'm sorry, I can't help with that."
    assert answer.output_tokens == 40


@pytest.mark.parametrize(
    ("status", "content", "reason", "words"),
    [
        (200, {"id": "1", "choices": []}, "no_choices", 'no choices, but {"id": "1"'),
        (200, {"choices": [{"index": 0, "finish_reason": None}]}, "no_message", "no message"),
        (200, "<html><title>Welcome</title><body>Log in</body></html>", "no_json", "Log in"),
        (200, {"error": {"message": "Provider returned error"}}, "no_answer", "Provider returned"),
        (200, "", "no_json", "no JSON"),
        (
            500,
            {"error": {"code": 500, "message": "image input is not supported - hint: mmproj"}},
            "HTTP500",
            "HTTP 500: image input is not supported",
        ),
    ],
)
def test_an_answer_that_says_nothing_is_asked_for_three_times_and_then_refused(
    endpoint: WeatherEndpoint, status: int, content: object, reason: str, words: str
) -> None:
    answer = _answer(endpoint, kinds.always(status, content))
    assert answer.reason == f"engine_refused:{reason}"
    assert words in str(answer.reason_detail)
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    "content",
    [
        {"choices": []},
        {"error": {"code": 429, "message": "Rate limit exceeded"}},
        {"error": {"code": 502, "message": "Provider returned error"}},
        {"error": {"message": "Overloaded", "type": "overloaded_error"}},
        {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "Lost"}}]},
    ],
)
def test_an_answer_without_a_text_that_may_come_later_is_waited_for(
    endpoint: WeatherEndpoint, content: object
) -> None:
    def reply(*_: object) -> tuple[int, object] | None:
        return (200, content) if len(endpoint.requests) <= 2 else None

    assert _answer(endpoint, reply).text
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    "error", [{"code": 402, "message": "Insufficient credits"}, {"code": "invalid_api_key"}]
)
def test_an_error_inside_an_answer_may_concern_every_request(
    endpoint: WeatherEndpoint, error: dict[str, object]
) -> None:
    with pytest.raises(EngineError, match="an error in an answer 40"):
        _answer(endpoint, kinds.always(200, {"error": error}))
    assert len(endpoint.requests) == 1


def test_a_page_instead_of_an_answer_is_weather_in_one_line(endpoint: WeatherEndpoint) -> None:
    page = "<html><head><style>p {}</style></head><body><h1>502</h1>\n<p>Bad Gateway</p></body>"

    def reply(*_: object) -> tuple[int, object] | None:
        return (502, page) if len(endpoint.requests) == 1 else None

    assert _answer(endpoint, reply).text
    assert read_problem(page).sentence == "502 Bad Gateway"


def test_an_answer_begins_with_its_prefill_and_follows_its_schema(
    endpoint: WeatherEndpoint,
) -> None:
    schema = {"type": "object", "properties": {"tags": {"type": "array"}}}
    endpoint.reply = kinds.answer_with({"content": " cat on a mat.\n"})
    request = _build_request(prefill="A", schema=json.dumps(schema))
    [answer], _ = _ask(endpoint, request)
    assert answer.text == "A cat on a mat."
    [sent] = endpoint.requests
    assert sent["messages"][-1] == {"role": "assistant", "content": "A"}
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    assert sent["response_format"]["type"] == "json_schema"
    assert sent["response_format"]["json_schema"]["schema"] == schema
    endpoint.reply = kinds.answer_with({"content": "A dog."})  # it repeats the beginning
    [answer], _ = _ask(endpoint, _build_request(prefill="A"))
    assert answer.text == "A dog."


@pytest.mark.parametrize(
    "words",
    [
        "Unrecognized request argument supplied: continue_final_message",
        "This model does not support assistant message prefill. The conversation must end with a "
        "user message.",
    ],
)
def test_an_endpoint_that_continues_no_answer_refuses_prefill_by_name(
    endpoint: WeatherEndpoint, words: str
) -> None:
    endpoint.reply = kinds.always(400, {"error": {"message": words}})
    [answer], _ = _ask(endpoint, _build_request(prefill="A"))
    assert answer.reason == "engine_refused:prefill"
    assert str(answer.reason_detail).endswith(words)


@pytest.mark.parametrize(
    ("body", "sentence", "parameter"),
    [
        ({"message": "no", "param": "x"}, "no", "x"),
        ({"error": "model is loading"}, "model is loading", None),
        ({"object": "error", "message": "bad", "code": 400}, "bad", None),
        ({"detail": "Not here"}, "Not here", None),
        ('{"error": {"message": "inside"}}', "inside", None),
        ([{"error": {"message": "listed"}}], "listed", None),
        ({"detail": [{"loc": ["body", "seed"], "msg": "extra"}]}, "body.seed: extra", "seed"),
        (None, "no reason given", None),
        (
            {"code": "bad", "error": "Model does not support seed."},
            "Model does not support seed.",
            None,
        ),
        ({"error_code": "BAD_REQUEST", "message": "no pictures"}, "no pictures", None),
        ({"strange": 1}, '{"strange": 1}', None),
    ],
)
def test_a_problem_is_read_from_every_form(
    body: object, sentence: str, parameter: str | None
) -> None:
    found = read_problem(body)
    assert (found.sentence, found.parameter) == (sentence, parameter)


@pytest.mark.parametrize(
    "answer",
    ["null", "[]", "3", '{"choices": null}', '{"choices": [null]}', '{"choices": {"a": 1}}'],
)
def test_an_answer_of_no_known_form_is_a_problem(answer: str) -> None:
    assert isinstance(read_answer(answer), Problem)
