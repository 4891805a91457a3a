"""A client's sampling in each engine's own parameters."""

import asyncio
from dataclasses import replace

import pytest

from s4v_core.engines.endpoint_parameters import EndpointParameters
from s4v_core.engines.fake import FakeEngine
from s4v_core.engines.requests import Request
from s4v_core.engines.sampling import (
    ClientSampling,
    SamplingConfig,
    cut_at_stop,
    list_client_changes,
)
from s4v_core.engines.settings import EngineSettings, EngineSpec

ASKED = Request("a", "a", (), "Hello")
CHANGES = {
    "stop": (" answer",),
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "top_k": 7,
    "min_p": 0.1,
    "min_tokens": 3,
    "ignore_eos": True,
    "logit_bias": {5: -100.0},
}
SAMPLING = ClientSampling(temperature=0.7, **CHANGES)


def test_only_a_clients_changes_are_listed() -> None:
    assert list_client_changes(SamplingConfig()) == {}
    assert list_client_changes(ClientSampling(temperature=0.5, max_tokens=3)) == {}
    assert list_client_changes(SAMPLING) == CHANGES


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (("b",), "abcb", "a"),
        (("c", "b"), "abcb", "a"),
        (("zz",), "abcb", "abcb"),
        (("a",), "abcb", ""),
        ((), "abcb", "abcb"),
    ],
)
def test_a_text_is_cut_before_its_first_stop(
    stops: tuple[str, ...], text: str, expected: str
) -> None:
    assert cut_at_stop(ClientSampling(stop=stops), text) == expected
    assert cut_at_stop(SamplingConfig(), text) == text


def test_vllm_takes_every_parameter() -> None:
    pytest.importorskip("vllm")
    from s4v_core.engines.vllm import _parameters

    found = _parameters(ASKED, SAMPLING, [2], streams=False)
    assert found.stop == [" answer"]
    assert found.detokenize, "vLLM looks for stop texts in what it has decoded"
    assert (found.presence_penalty, found.frequency_penalty) == (0.5, -0.5)
    assert (found.top_k, found.min_p, found.min_tokens) == (7, 0.1, 3)
    assert found.logit_bias == {5: -100.0}
    assert found.ignore_eos
    assert not found.stop_token_ids, "the end of a turn is an end, too"
    assert found.repetition_detection is None

    plain = _parameters(ASKED, SamplingConfig(), [2], streams=False)
    assert plain == _parameters(ASKED, ClientSampling(), [2], streams=False)
    assert plain.stop_token_ids == [2]
    assert not plain.detokenize

    bound = replace(ASKED, answer_schema='{"type": "object"}')
    assert _parameters(bound, SAMPLING, [], streams=True).structured_outputs.json


def test_transformers_takes_some_and_names_the_others() -> None:
    from s4v_core.engines.transformers import TransformersEngine, _parameters

    sampling = ClientSampling(temperature=0.7, top_k=7, min_p=0.1, min_tokens=3, stop=("a",))
    found = _parameters(sampling)
    assert (found["top_k"], found["min_p"], found["min_new_tokens"]) == (7, 0.1, 3)
    assert found["stop_strings"] == ["a"]
    greedy = _parameters(sampling.replace(temperature=0.0))
    assert "top_k" not in greedy
    engine = object.__new__(TransformersEngine)  # refused before there is a model
    for name in ("presence_penalty", "frequency_penalty", "ignore_eos", "logit_bias"):
        asked = ClientSampling(**{name: CHANGES[name]})
        answer = asyncio.run(engine.generate(ASKED, asked))
        assert answer.reason == f"engine_refused:no_{name}"


def test_an_endpoint_is_sent_every_parameter() -> None:
    sent = EndpointParameters().build(SAMPLING, "a")
    assert {name: sent[name] for name in CHANGES} == CHANGES
    assert not CHANGES.keys() & EndpointParameters().build(SamplingConfig(), "a").keys()


def test_the_fake_engine_ends_at_a_stop_text_and_knows_its_length() -> None:
    settings = EngineSettings(max_model_len=4)
    engine = FakeEngine(EngineSpec("fake", "none", "vicuna_v1", settings, "cpu"))
    answer = asyncio.run(engine.generate(ASKED, SAMPLING))
    assert answer.text == "A fake"
    long = asyncio.run(engine.generate(replace(ASKED, prompt="a b c d"), SAMPLING))
    assert (long.text, long.reason) == (None, "engine_refused:ValueError")
    assert asyncio.run(engine.tokenize(ASKED)) == asyncio.run(engine.tokenize(ASKED))
