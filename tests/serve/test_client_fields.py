"""Fields of requests: ignored where they change nothing, done, or refused by name."""

import json
from typing import Any

import pytest

from s4v_core.engines.sampling import list_client_changes
from tests.serve.in_process import House, error_of


@pytest.fixture(scope="module")
def house() -> House:
    return House()


NOTHING: list[dict[str, Any]] = [
    {},
    *({"presence_penalty": 0}, {"frequency_penalty": 0.0}, {"logit_bias": None}),
    *({"logit_bias": {}}, {"logprobs": False}, {"logprobs": None}, {"top_logprobs": None}),
    *({"tools": []}, {"tools": None}, {"tool_choice": "none"}, {"tool_choice": "auto"}),
    *({"response_format": {"type": "text"}}, {"response_format": None}),
    *({"stop": None}, {"stop": []}, {"stop": ""}, {"stop": [""]}),
    *({"store": False}, {"store": True}, {"metadata": {"a": "b"}}, {"metadata": None}),
    *({"parallel_tool_calls": True}, {"service_tier": "auto"}, {"reasoning_effort": "low"}),
    *({"modalities": ["text"]}, {"modalities": None}, {"prompt_cache_key": "x"}),
    *({"verbosity": "low"}, {"user": "somebody"}, {"user": None}, {"safety_identifier": "x"}),
    *({"seed": 0}, {"seed": -1}, {"seed": 2**63 - 1}, {"seed": None}, {"n": 1}, {"n": None}),
    *({"n": 1.0}, {"temperature": 0}, {"temperature": 0, "top_p": 0}, {"top_p": 1}, {"top_p": 0}),
    *({"max_completion_tokens": 9}, {"max_tokens": 9, "max_completion_tokens": 8}),
    *({"max_tokens": None}, {"max_tokens": 9.0}, {"max_tokens": 1024}),
    *({"stream_options": None}, {"stream_options": {"include_usage": True}}, {"stream": None}),
    *({"stream": False}, {"stream_options": {"include_obfuscation": True}}),
    *({"foo": "bar"}, {"functions": []}, {"function_call": None}, {"audio": None}),
    *({"prediction": {"type": "content", "content": "x"}}, {"web_search_options": None}),
    *({"chat_template_kwargs": {}}, {"chat_template_kwargs": {"enable_thinking": False}}),
    *({"repetition_penalty": 1}, {"top_k": -1}, {"top_k": 0}, {"min_p": 0}, {"min_tokens": 0}),
    *({"ignore_eos": False}, {"echo": False}, {"best_of": 1}, {"suffix": None}),
    *({"add_generation_prompt": True}, {"continue_final_message": False}),
    *({"use_beam_search": False}, {"length_penalty": 1.0}, {"skip_special_tokens": True}),
    *({"thinking": {"type": "disabled"}}, {"cache_salt": "x"}, {"priority": 0}),
]


@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_a_field_that_changes_nothing_is_ignored(house: House, fields: dict[str, Any]) -> None:
    assert house.said(house.chat(**fields)) == "A fake answer to 'Hi'."
    assert list_client_changes(house.replica.asked[-1][1]) == {}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "a", "format": "wav"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"echo": True}, "echo"),
    ({"best_of": 2}, "best_of"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"guided_json": {"type": "object"}}, "guided_json"),
    ({"structured_outputs": {"json": {}}}, "structured_outputs"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"stop_token_ids": [2]}, "stop_token_ids"),
]


@pytest.mark.parametrize(("fields", "name"), REFUSED, ids=str)
def test_a_field_that_would_change_the_answer_is_refused_by_name(
    house: House, fields: dict[str, Any], name: str
) -> None:
    answer = house.chat(**fields)
    assert error_of(answer) == (400, "unsupported_parameter", name)
    message = answer.json()["error"]["message"]
    assert message.startswith(f"{name}: ")
    assert message.endswith(".")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_p": 2}, "min_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"seed": 2**63}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"max_tokens": 4096}, "max_tokens"),
    ({"max_tokens": 1025}, "max_tokens"),
    ({"max_completion_tokens": 1025}, "max_completion_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a", None]}, "stop[1]"),
    ({"logit_bias": {"hello": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"stream": "yes"}, "stream"),
    ({"response_format": {"type": "grammar"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": "json"}, "response_format"),
    ({"model": None}, "model"),
    ({"user": "\ud800"}, "user"),
    ({"foo": {"bar": ["\udfff"]}}, "foo.bar[0]"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=ascii)
def test_a_wrong_value_is_refused_with_its_place(
    house: House, fields: dict[str, Any], param: str
) -> None:
    answer = house.chat(**fields)
    status, _, found = error_of(answer)
    assert (status, found) == (400, param), answer.text


def test_a_lone_surrogate_is_refused_wherever_it_is(house: House) -> None:
    half = "\ud83d"
    places: list[Any] = [
        [{"role": "user", "content": half}],
        [{"role": "user", "content": [{"type": "text", "text": f"a{half}"}]}],
        [{"role": "system", "content": half}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "Hi", "name": half}],
        [{"role": "user", "content": "Hi", half: 1}],
    ]
    for messages in places:
        assert error_of(house.chat(messages))[:2] == (400, "bad_unicode")
    completion = house.post("/v1/completions", {"model": "share-captioner", "prompt": half})
    assert error_of(completion) == (400, "bad_unicode", "prompt")
    response = house.post("/v1/responses", {"model": "share-captioner", "input": half})
    assert error_of(response) == (400, "bad_unicode", "input")
    assert house.post("/v1/caption", {"image": half}).status_code == 400
    assert house.post("/v1/captions", {"images": [{"image": half}]}).status_code == 400
    assert house.said(house.chat([{"role": "user", "content": "\U0001f600"}]))


def test_what_is_done_reaches_the_engine(house: House) -> None:
    fields = {
        "stop": ["a", "b"],
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "top_k": 7,
        "min_p": 0.1,
        "min_tokens": 3,
        "ignore_eos": True,
        "logit_bias": {"5": -100, "7": 1.5},
    }
    more = {"repetition_penalty": 1.2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 12}
    assert house.chat(**fields, **more).status_code == 200
    sampling = house.replica.asked[-1][1]
    expected = fields | {"stop": ("a", "b"), "logit_bias": {5: -100.0, 7: 1.5}}
    assert list_client_changes(sampling) == expected
    assert {name: getattr(sampling, name) for name in more} == more


def test_top_p_of_0_takes_the_most_likely_token(house: House) -> None:
    assert house.chat(temperature=1.5, top_p=0).status_code == 200
    sampling = house.replica.asked[-1][1]
    assert (sampling.temperature, sampling.top_p) == (0, 1)


def test_the_newer_name_of_the_longest_answer_counts(house: House) -> None:
    for fields, most in (
        ({"max_tokens": 9, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 9}, 9),
        ({}, 512),
    ):
        house.chat(**fields)
        assert house.replica.asked[-1][1].max_tokens == most


def test_too_many_tokens_are_refused_with_both_numbers(house: House) -> None:
    message = house.chat(max_tokens=4096).json()["error"]["message"]
    assert "4096" in message
    assert "1024" in message


@pytest.mark.parametrize("stop", [" answer", [" to", " answer", "zzz"]])
def test_an_answer_ends_before_its_stop_text(house: House, stop: Any) -> None:
    assert house.said(house.chat(stop=stop)) == "A fake"
    streamed = house.chat(stop=stop, stream=True).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(pieces) == "A fake"
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_an_answer_follows_the_schema_of_its_request(house: House) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA, "strict": True}}
    found = json.loads(house.said(house.chat(response_format=form)))
    assert found.keys() == {"name", "age"}
    assert isinstance(found["age"], int)
    assert json.loads(house.replica.asked[-1][0].answer_schema or "") == SCHEMA
    assert json.loads(house.said(house.chat(response_format={"type": "json_object"}))) == {}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"properties": {"a": {"type": "array", "items": []}}},
        {"enum": []},
        {"type": "integer", "minimum": "low"},
    ],
)
def test_a_broken_schema_is_refused_and_breaks_nothing(house: House, schema: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = house.chat(response_format=form)
    assert answer.status_code in (200, 400), answer.text


def test_a_deep_schema_is_refused(house: House) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"type": "object", "properties": {"a": schema}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    code = error_of(house.chat(response_format=form))
    assert code == (400, "unsupported_schema", "response_format")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9},
        {"type": "array", "items": {"type": "string", "maxLength": 10**12}},
        {"type": "object", "minProperties": 1e9},
        {"type": "string", "pattern": "a{1,100000}"},
        {"type": "string", "pattern": "(a|b)" * 200},
        {"type": "string", "pattern": f"a{{{'9' * 6000}}}"},
        {"type": "object", "properties": {"a": {"multipleOf": 3}}, "x": "y" * 70_000},
    ],
    ids=lambda schema: str(schema)[:50],
)
def test_a_schema_that_would_fill_memory_is_refused(house: House, schema: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    code = error_of(house.chat(response_format=form))
    assert code == (400, "unsupported_schema", "response_format")
    flat = {"type": "json_schema", "name": "x", "schema": schema}
    body = {"model": "share-captioner", "input": "a", "text": {"format": flat}}
    code = error_of(house.post("/v1/responses", body))
    assert code == (400, "unsupported_schema", "text.format.schema")


COMPLETIONS: list[tuple[dict[str, Any], int]] = [
    ({}, 200),
    *(({"logprobs": value}, 200) for value in (None, False, 0)),
    *(({name: None}, 200) for name in ("echo", "suffix", "best_of", "stop", "n")),
    *(({"echo": False}, 200), ({"suffix": ""}, 200), ({"best_of": 1}, 200), ({"stop": "x"}, 200)),
    *(({"logprobs": 1}, 400), ({"echo": True}, 400), ({"suffix": "x"}, 400), ({"best_of": 3}, 400)),
    *(({"prompt": ""}, 400), ({"prompt": []}, 400), ({"prompt": [1, 2]}, 400)),
    *(({"prompt": [[1], [2]]}, 400), ({"prompt": ["a", ""]}, 400), ({"prompt": None}, 400)),
    *(({"prompt": ["a"] * 33}, 400), ({"prompt": ["a", "b"], "stream": True}, 400)),
]


@pytest.mark.parametrize(("fields", "status"), COMPLETIONS, ids=str)
def test_completions_treat_their_fields_alike(
    house: House, fields: dict[str, Any], status: int
) -> None:
    body = {"model": "share-captioner", "prompt": "Once"} | fields
    answer = house.post("/v1/completions", body)
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["error"]["param"].split("[")[0] in fields


def test_a_list_of_prompts_gets_one_choice_each(house: House) -> None:
    body = {"model": "share-captioner", "prompt": ["one", "two words", "three"]}
    found = house.post("/v1/completions", body).json()
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    texts = [choice["text"] for choice in found["choices"]]
    assert texts == [f"A fake answer to {prompt!r}." for prompt in body["prompt"]]
    assert found["usage"]["prompt_tokens"] == 4
