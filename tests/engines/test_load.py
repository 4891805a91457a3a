"""The load of an engine, measured step by step, without an engine."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from s4v_core.engines.engine_load import EngineLoad, add_loads, take_load
from s4v_core.engines.load_meter import LoadMeter, record_step
from s4v_core.engines.requests import EngineDiedError, Generation, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.supervision import SupervisedEngine, supervise


class Meter(LoadMeter):
    """A meter of an engine with ten places, with a clock that the test advances."""

    now = 100.0

    def __init__(self) -> None:
        super().__init__(places=10, clock=lambda: self.now)

    def end_step(self, seconds: float, running: int, waiting: int, **more: Any) -> None:
        self.now += seconds
        self.add_step(running, waiting, more.pop("finished", 0), **more)


def test_seconds_count_only_while_the_engine_has_requests() -> None:
    meter = Meter()
    meter.end_step(50.0, 4, 0, finished=1)  # nothing is known about its beginning
    meter.end_step(2.0, 3, 1, kv=0.5)
    meter.end_step(1.0, 3, 0, finished=3)  # the last ones leave
    meter.end_step(70.0, 5, 0)  # 69 seconds without requests, and a step
    load = meter.take()
    assert (load.steps, load.timed_steps, load.finished) == (4, 2, 4)
    assert load.step_s == 3.0
    assert load.running_s == 3 * 2.0 + 3 * 1.0
    assert load.waiting_s == 2.0
    assert load.kv_peak == 0.5
    assert load.kv_s == 0.5 * 3.0  # what left after the third step held its part during it
    assert meter.take() == EngineLoad(places=10)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("full_s", {"running": 9, "waiting": 0}),
        ("full_s", {"running": 10, "waiting": 4, "kv": 0.99}),
        ("crowded_s", {"running": 4, "waiting": 1, "kv": 0.97}),
        ("crowded_s", {"running": 4, "waiting": 1, "kv": 0.81}),  # a fifth takes 0.2
        ("rationed_s", {"running": 4, "waiting": 1, "kv": 0.79}),
        ("rationed_s", {"running": 0, "waiting": 1, "kv": 0.0}),
        ("short_s", {"running": 4, "waiting": 0, "kv": 0.97}),
    ],
)
def test_each_second_has_one_state(state: str, step: dict[str, Any]) -> None:
    meter = Meter()
    meter.end_step(1.0, 1, 1)
    meter.end_step(2.0, **step)
    load = meter.take()
    states = {"full_s", "crowded_s", "rationed_s", "short_s"}
    assert {name for name in states if getattr(load, name)} == {state}
    assert getattr(load, state) == load.step_s == 2.0


def test_an_engine_that_waits_for_prompts_is_not_idle() -> None:
    meter = Meter()
    meter.end_step(1.0, 1, 0, finished=1, preparing=3)
    meter.end_step(5.0, 3, 0, finished=3, preparing=2)
    load = meter.take()
    assert load.short_s == load.unprepared_s == 5.0
    assert load.preparing_s == 10.0


def _step(running: int, finished: int = 0, **counts: Any) -> tuple[Any, Any]:
    """Statistics as vLLM gives them after a step."""
    about = {"num_waiting_reqs": 2, "num_skipped_waiting_reqs": 1, "kv_cache_usage": 0.5}
    scheduler = SimpleNamespace(
        num_running_reqs=running,
        prefix_cache_stats=SimpleNamespace(queries=100, hits=60),
        spec_decoding_stats=None,
        **about,
    )
    iteration = SimpleNamespace(
        finished_requests=[None] * finished,
        prompt_token_stats=SimpleNamespace(computed=40, total=100),
        num_generation_tokens=running + finished,
        num_preempted_reqs=1,
    )
    return scheduler, iteration


def test_what_vllm_says_after_a_step_is_summed() -> None:
    meter = Meter()
    record_step(meter, None, None, None, held=9)  # answers that are no step's
    scheduler, iteration = _step(running=5, finished=2)
    record_step(meter, scheduler, iteration, SimpleNamespace(queries=4, hits=1), held=14)
    meter.now += 1
    record_step(meter, scheduler, None, None, held=9)  # a step of a long prompt: nothing came out
    load = meter.take()
    assert (load.steps, load.finished, load.preemptions) == (2, 2, 1)
    assert (load.prompt_tokens, load.output_tokens) == (40, 7)
    assert (load.prefix_queries, load.prefix_hits) == (200, 120)
    assert (load.image_queries, load.image_hits) == (4, 1)
    assert (load.running_s, load.waiting_s, load.preparing_s) == (5.0, 3.0, 1.0)


def test_loads_add_up() -> None:
    one = EngineLoad(places=8, steps=2, kv_peak=0.5, moments=[1.0] * 7)
    other = EngineLoad(places=8, steps=3, kv_peak=0.25, moments=[2.0] * 7)
    silent = EngineLoad(places=8, steps=1)
    assert one + other == EngineLoad(places=8, steps=5, kv_peak=0.5, moments=[3.0] * 7)
    assert (one + silent).kv_peak == 0.5
    assert (silent + silent).kv_peak is None
    assert add_loads(None, one) is one
    assert add_loads(one, None) is one
    assert add_loads(None, None) is None


class _Engine:
    """Answers one request a step; dies of the word die."""

    version, slots, last_sign = "none", 4, 0.0

    def __init__(self) -> None:
        self.meter = LoadMeter(self.slots)

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: object = None
    ) -> Generation:
        if request.prompt == "die":
            raise EngineDiedError("none", "it died")
        self.meter.add_step(1, 0, finished=1)
        return Generation("Yes.", "stop", 1, 1)

    def take_load(self) -> EngineLoad:
        return self.meter.take()

    def kill(self) -> None: ...

    def close(self) -> None: ...


def test_the_load_of_an_engine_that_died_is_kept() -> None:
    async def ask(engine: SupervisedEngine[Generation]) -> None:
        for prompt in ("one", "two", "die", "three"):
            await engine.generate(Request(prompt, prompt, (), prompt), SamplingConfig())

    engine = supervise(_Engine, silence_limit_s=60, max_starts=9)
    asyncio.run(ask(engine))
    load = take_load(engine)
    assert engine.starts > 1
    assert load is not None
    assert load.steps == 3
    assert take_load(engine) == EngineLoad(places=4)


def test_an_engine_of_another_kind_tells_no_load() -> None:
    class Silent(_Engine):
        take_load = None  # type: ignore[assignment]

    engine = SupervisedEngine[Generation](Silent, 60, 9, fail, EngineDiedError)
    assert take_load(engine) is None
    assert take_load(object()) is None
