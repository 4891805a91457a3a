"""The first requests of a run are a trial: an engine that refuses them all alike ends it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from s4v_core.engines.requests import Generation, OnPiece, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import EngineError
from s4v_core.flow.trial import FIRST_REQUESTS, EngineTrial, describe_refusal

REFUSED = fail("engine_refused:BadRequestError", "HTTP 400: prompt of 3657 tokens is too long")
ANSWERED = Generation("A cat.", "stop", 5, 7)


class FakeBrake:
    """The proof alone, without Ray."""

    def __init__(self) -> None:
        self.proven = False

    def prove(self) -> None:
        self.proven = True

    async def is_proven_now(self) -> bool:
        return self.proven


class ScriptedEngine:
    """Answers each key as the script says, after so many turns of the event loop."""

    version = "scripted"

    def __init__(self, script: Callable[[int], tuple[Generation, int]]) -> None:
        self._script, self.asked = script, 0

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        self.asked += 1
        answer, turns = self._script(int(request.key))
        for _ in range(turns):
            await asyncio.sleep(0)
        return answer


async def _run_unit(trial: EngineTrial, keys: Sequence[int]) -> list[Generation]:
    requests = [Request(f"{key}", f"{key}", (), "What is it?") for key in keys]
    async with trial.unit(len(keys)):
        return list(await asyncio.gather(*(trial.generate(r, SamplingConfig()) for r in requests)))


def _run(
    script: Callable[[int], tuple[Generation, int]],
    *units: int,
    rows: int | None = None,
    brake: FakeBrake | None = None,
    at_once: bool = True,
) -> list[Any]:
    """The answers of each unit, or the error that it ends with."""
    engine = cast(Any, ScriptedEngine(script))
    total = sum(units) if rows is None else rows
    trial = EngineTrial(engine, "test", total, cast(Any, brake or FakeBrake()))
    starts = [sum(units[:number]) for number in range(len(units))]
    keys = [range(start, start + count) for start, count in zip(starts, units, strict=True)]

    async def run() -> list[Any]:
        if at_once:
            runs = (_run_unit(trial, of_unit) for of_unit in keys)
            return list(await asyncio.gather(*runs, return_exceptions=True))
        found: list[Any] = []
        for of_unit in keys:
            found += await asyncio.gather(_run_unit(trial, of_unit), return_exceptions=True)
        return found

    return asyncio.run(asyncio.wait_for(run(), 20))


def _refuse(_: int) -> tuple[Generation, int]:
    return REFUSED, 1


@pytest.mark.parametrize(
    "units", [(256,), (256, 256), (12,), (4, 4, 4), (8,), (3,), (5, 3), (40, 2)]
)
def test_a_run_whose_first_requests_are_all_refused_alike_ends_with_their_words(
    units: tuple[int, ...],
) -> None:
    found = _run(_refuse, *units)
    assert all(isinstance(one, EngineError) for one in found)
    assert "engine test: the first" in str(found[0])
    assert "HTTP 400: prompt of 3657 tokens is too long; nothing of them was written" in str(
        found[0]
    )
    assert str(found[0]).endswith("(with another --output, unless it is one of --settings)")


@pytest.mark.parametrize("units", [(1,), (2,), (1, 1)])
def test_a_run_of_one_or_two_rows_gets_them(units: tuple[int, ...]) -> None:
    assert [answer for unit in _run(_refuse, *units) for answer in unit] == [REFUSED] * sum(units)


def test_a_few_refused_rows_say_nothing_about_a_large_run() -> None:
    [unit] = _run(_refuse, 7, rows=1000)
    assert unit == [REFUSED] * 7


def test_units_that_come_one_by_one_are_counted_together() -> None:
    found = _run(_refuse, 4, 4, rows=1000, at_once=False)
    assert found[0] == [REFUSED] * 4
    assert isinstance(found[1], EngineError)


def test_numbers_and_ids_do_not_make_two_refusals_differ() -> None:
    def refuse(key: int) -> tuple[Generation, int]:
        words = f"prompt of {key} tokens is too long (request req_{key}ab)"
        return fail("engine_refused:VLLMValidationError", words), 1

    [found] = _run(refuse, 64)
    assert isinstance(found, EngineError)


@pytest.mark.parametrize(
    "other",
    [
        ANSWERED,
        fail("engine_refused:BadRequestError", "HTTP 400: the image is broken"),
        fail("engine_refused:content_filter", "flagged"),
        fail("engine_refused:model_refusal", "I cannot"),
        fail("engine_died"),
        fail("hang"),
    ],
)
@pytest.mark.parametrize("at", [0, 17, FIRST_REQUESTS - 1])
def test_anything_else_among_the_first_requests_ends_the_trial(other: Generation, at: int) -> None:
    [unit] = _run(lambda key: (other if key == at else REFUSED, 1), 64)
    assert unit == [other if key == at else REFUSED for key in range(64)]


def test_answers_that_are_slower_than_refusals_are_waited_for() -> None:
    def answer(key: int) -> tuple[Generation, int]:
        return (ANSWERED, 500) if key == 5 else (REFUSED, 1)

    brake = FakeBrake()
    [unit] = _run(answer, 256, brake=brake)
    assert unit.count(REFUSED) == 255
    assert brake.proven


def test_a_unit_of_refusals_waits_for_the_answers_of_another() -> None:
    found = _run(lambda key: (ANSWERED, 300) if key >= 12 else (REFUSED, 1), 12, 4)
    assert found == [[REFUSED] * 12, [ANSWERED] * 4]


def test_an_engine_that_starts_late_is_not_tried_again() -> None:
    brake = FakeBrake()
    brake.prove()  # another engine of the run has answered
    [unit] = _run(_refuse, 64, brake=brake)
    assert unit == [REFUSED] * 64


def test_without_a_trial_every_refusal_is_a_row() -> None:
    [unit] = _run(_refuse, 64, rows=0)
    assert unit == [REFUSED] * 64


def test_rows_without_a_request_count_as_seen() -> None:
    async def run() -> None:
        trial = EngineTrial(cast(Any, ScriptedEngine(_refuse)), "test", 6, cast(Any, FakeBrake()))
        async with trial.unit(6):  # three of its images cannot be read
            requests = [Request(f"{n}", f"{n}", (), "What is it?") for n in range(3)]
            await asyncio.gather(*(trial.generate(r, SamplingConfig()) for r in requests))

    with pytest.raises(EngineError, match="the first 3 requests were all refused alike"):
        asyncio.run(run())


def test_no_request_is_sent_after_the_verdict() -> None:
    engine = ScriptedEngine(_refuse)

    async def run() -> None:
        trial = EngineTrial(cast(Any, engine), "test", 999, cast(Any, FakeBrake()))
        for _ in range(3):
            with pytest.raises(EngineError):
                await _run_unit(trial, range(64))

    asyncio.run(run())
    assert engine.asked == 64


def test_an_answer_is_no_refusal() -> None:
    assert describe_refusal(ANSWERED) is None
    assert describe_refusal(fail("thinking_unfinished", "max 50")) == "thinking_unfinished max #"
