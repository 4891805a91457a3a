"""The limit of an engine, by its load; and the figures and the advice that follow."""

import json
import re
from typing import Any

import numpy as np
import pytest

from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.load_meter import LoadMeter
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.records.captions import CAPTIONS
from s4v_core.runs.engine_figures import describe_load, summarise_load
from s4v_core.runs.engine_limits import advise_engine, estimate_prefill_share, find_limit
from s4v_core.runs.figures import CHANGES, RunFigures, describe_figures, name_bound

PLACES = 32


def _spec(name: str = "vllm", device: str = "gpu") -> EngineSpec:
    return EngineSpec(name, "m", "model", EngineSettings(), device)  # type: ignore[arg-type]


def _measure(
    prompt_cost_s: float = 0.0, steps: int = 400, preemptions: int = 0, **step: Any
) -> EngineLoad:
    """The load of an engine whose steps take 10 ms, 0.1 ms a sequence, and what prompts cost.

    Args:
        prompt_cost_s: Seconds of a prompt token.
    """
    chance, now = np.random.default_rng(0), 0.0
    meter = LoadMeter(PLACES, clock=lambda: now)
    about: dict[str, Any] = {"running": 32, "waiting": 3, "finished": 1, "kv": 0.4} | step
    for _ in range(steps):
        prompts = 600 * int(chance.poisson(0.5))
        outputs = about["running"] - int(chance.integers(0, 4))
        now += 0.01 + 0.0001 * outputs + prompt_cost_s * prompts + 0.0005 * chance.random()
        meter.add_step(**about, prompt_tokens=prompts, output_tokens=outputs)
    meter.add_preemptions(preemptions)
    return meter.take()


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "decode", "decode, 32 of 32 sequences"),
    ({"running": 30}, "decode", "decode, 30 of 32 sequences"),
    ({"prompt_cost_s": 1e-4}, "prefill", "prefill"),
    ({"running": 9, "kv": 0.98}, "kv_cache", "KV cache full"),
    ({"running": 3, "kv": 0.8}, "kv_cache", "KV cache full"),
    ({"preemptions": 60}, "kv_cache", "KV cache full, 60 preemptions"),
    ({"preemptions": 2}, "decode", "decode, 32 of 32 sequences"),
    ({"running": 9, "waiting": 0}, "requests", "few requests: queue empty"),
    (
        {"running": 9, "waiting": 0, "preparing": 5},
        "preparation",
        "queue empty: requests are prepared too slowly",
    ),
    ({"running": 9}, "step_tokens", "prefill, steps full of prompts"),
]


@pytest.mark.parametrize(("about", "kind", "words"), CASES)
def test_the_limit_is_named(about: dict[str, Any], kind: str, words: str) -> None:
    limit = find_limit(_measure(**about))
    assert limit is not None
    assert (limit.kind, limit.words) == (kind, words)


def test_a_load_that_says_too_little_names_no_limit() -> None:
    assert find_limit(None) is None
    assert find_limit(EngineLoad(places=PLACES)) is None
    assert find_limit(_measure(steps=15)) is None
    assert find_limit(_measure(steps=30)) is not None


@pytest.mark.parametrize("cost_s", [0.0, 1e-5, 3e-5, 1e-4])
def test_the_share_of_prompts_is_what_they_cost(cost_s: float) -> None:
    load = _measure(prompt_cost_s=cost_s, steps=4000)
    true_share = cost_s * load.moments[0] / load.step_s
    assert estimate_prefill_share(load) == pytest.approx(true_share, abs=0.02)


def test_the_share_is_nothing_where_steps_do_not_differ() -> None:
    meter, now = LoadMeter(PLACES, clock=lambda: now), 0.0
    for _ in range(100):
        now += 0.01
        meter.add_step(32, 3, 0, prompt_tokens=600, output_tokens=32)
    assert estimate_prefill_share(meter.take()) == 0.0
    assert estimate_prefill_share(EngineLoad()) == 0.0


def _summarise(spec: EngineSpec, **about: Any) -> dict[str, Any]:
    figures = summarise_load(_measure(**about), spec, engines=1)
    return dict(json.loads(json.dumps(figures)))


@pytest.mark.parametrize(
    ("about", "device", "advice"),
    [
        ({}, "gpu", "--settings.max-num-seqs (the KV cache was never more than 40% full)"),
        ({}, "cpu", "more --engines"),  # no more than 32 sequences run on a CPU
        ({"kv": 0.8}, "gpu", "more --engines"),
        ({"prompt_cost_s": 1e-4}, "gpu", "smaller pictures"),
        ({"running": 9, "kv": 0.98}, "gpu", "--settings.gpu-memory-utilization"),
        ({"running": 9, "kv": 0.98}, "cpu", "--settings.kv-cache-gib"),
        ({"preemptions": 60}, "gpu", "fewer --settings.max-num-seqs"),
        ({"running": 9, "waiting": 0}, "gpu", "--settings.units-in-flight"),
        ({"running": 9, "waiting": 0, "steps": 90}, "gpu", "too few to fill"),
        ({"running": 9, "waiting": 0, "preparing": 5}, "gpu", "--settings.cpus"),
        ({"running": 9}, "gpu", "--settings.max-num-batched-tokens"),
    ],
)
def test_the_advice_fits_the_limit(about: dict[str, Any], device: str, advice: str) -> None:
    found = advise_engine(_summarise(_spec(device=device), **about))
    assert found is not None
    assert advice in found
    assert "fewer --settings" not in found or about.get("preemptions")


def _figures(bound_by: str, engine: dict[str, Any] | None) -> dict[str, Any]:
    stages = {"engine": 1.5}
    return RunFigures(9, 9, 9, 0, 0, 1.0, stages, bound_by, "vllm", engine).as_dict()


def test_the_verdict_says_what_limits_the_engine_and_only_the_engine() -> None:
    engine = _summarise(_spec(), running=9, kv=0.98)
    text = describe_figures(_figures("engine", engine), CAPTIONS.words)
    assert "bound by engine (KV cache full; ms per image: engine 1.5); faster with a larger" in text
    assert name_bound(_figures("engine", engine)) == "engine (KV cache full)"
    text = describe_figures(_figures("read", engine), CAPTIONS.words)
    assert f"bound by read (ms per image: engine 1.5); faster with {CHANGES['read']}" in text
    assert name_bound(_figures("read", engine)) == "read"
    silent = _figures("engine", None)
    assert "engine_load" not in silent
    text = describe_figures(silent, CAPTIONS.words)
    assert text.endswith(
        f"bound by engine (ms per image: engine 1.5); faster with {CHANGES['engine']}"
    )
    assert name_bound(silent) == "engine"


def test_one_line_shows_what_is_known() -> None:
    line = describe_load(_summarise(_spec(), preemptions=60))
    assert line.startswith("engine: sequences a step 32.0 of 32; waiting 3.0; KV cache use 40%, ")
    assert "; preemptions 60; tokens a step " in line
    assert "cache hits" not in line
    assert "in preparation" not in line


def test_an_engine_that_tells_only_its_batches_shows_no_zeros() -> None:
    now = 0.0
    meter = LoadMeter(8, clock=lambda: now)
    for _ in range(40):
        now += 2.0
        meter.add_step(8, 8, finished=8)
    figures = summarise_load(meter.take(), _spec("transformers", "cpu"), engines=1)
    line = describe_load(figures)
    assert line == "engine: sequences a step 8.0 of 8; waiting 8.0; ms a step 2,000"
    assert figures["limited_by"] == "8 of 8 sequences"
    assert not re.search("KV|token|preempt", line)
    assert "--settings.batch-size" in (advise_engine(figures) or "")
