"""The first requests of a run are a trial: an engine that refuses them all alike ends it."""

import asyncio
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from s4v_core.engines.choice import choose_engine
from s4v_core.engines.requests import Generation, Generator, OnPiece, Picture, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import EngineError, S4VError
from s4v_core.flow import trial as trial_module
from s4v_core.flow.actor import EngineActor
from s4v_core.flow.brake import TrialCounts
from s4v_core.flow.preparation import PREPARED_SCHEMA
from s4v_core.flow.spec import FlowSpec
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.flow.trial import FIRST_REQUESTS, EngineTrial, describe_refusal
from s4v_core.records.contract import Contract, result_schema
from tests.engines import endpoint_kinds as kinds
from tests.engines.weather_endpoint import open_endpoint

REFUSED = fail("engine_refused:BadRequestError", "HTTP 400: prompt of 3657 tokens is too long")
ANSWERED = Generation("A cat.", "stop", 5, 7)


class FakeBrake:
    """The counts of a trial without Ray."""

    def __init__(self) -> None:
        self.trial = TrialCounts()

    def prove(self) -> None:
        self.trial.is_proven = True

    async def begin_rows(self, rows: int) -> None:
        self.trial.started += rows

    async def end_rows(self, rows: int, refused: int, alike: str | None) -> None:
        self.trial.end_rows(rows, refused, alike)

    async def read_trial(self) -> TrialCounts:
        return self.trial


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


def _try(engine: ScriptedEngine, rows: int, brake: FakeBrake | None = None) -> EngineTrial:
    return EngineTrial(cast(Any, engine), "test", rows, 3, cast(Any, brake or FakeBrake()))


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
    total = sum(units) if rows is None else rows
    trial = _try(ScriptedEngine(script), total, brake)
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
    assert str(found[0]).endswith("(with another --output, if what identifies the run changes)")


@pytest.mark.parametrize("units", [(1,), (2,), (1, 1)])
def test_a_run_of_one_or_two_rows_gets_them(units: tuple[int, ...]) -> None:
    assert [answer for unit in _run(_refuse, *units) for answer in unit] == [REFUSED] * sum(units)


def test_a_few_refused_rows_say_nothing_about_a_large_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial_module, "HOLD_LIMIT_S", 0.5)
    [unit] = _run(_refuse, 7, rows=1000)
    assert unit == [REFUSED] * 7


def test_a_unit_of_refusals_waits_for_the_next_one() -> None:
    async def run() -> list[Any]:
        trial = _try(ScriptedEngine(_refuse), 12)
        first = asyncio.create_task(_run_unit(trial, range(6)))
        await asyncio.sleep(0.5)  # the second is still being decoded
        second = asyncio.create_task(_run_unit(trial, range(6, 12)))
        return list(await asyncio.gather(first, second, return_exceptions=True))

    assert all("the first 12 requests" in str(error) for error in asyncio.run(run()))


def test_engines_count_their_refusals_together() -> None:
    async def run() -> list[Any]:
        brake = FakeBrake()
        trials = [_try(ScriptedEngine(_refuse), 12, brake) for _ in range(2)]
        runs = (_run_unit(trials[n], range(6 * n, 6 * n + 6)) for n in range(2))
        return list(await asyncio.gather(*runs, return_exceptions=True))

    assert all("the first 12 requests" in str(error) for error in asyncio.run(run()))


def test_the_answer_of_another_engine_ends_the_trial() -> None:
    async def run() -> list[Any]:
        brake = FakeBrake()
        bad = _try(ScriptedEngine(_refuse), 24, brake)
        good = _try(ScriptedEngine(lambda _: (ANSWERED, 200)), 24, brake)
        runs = (_run_unit(bad, range(12)), _run_unit(good, range(12, 24)))
        return list(await asyncio.gather(*runs))

    assert asyncio.run(run()) == [[REFUSED] * 12, [ANSWERED] * 12]


def test_units_that_hold_every_place_are_let_go() -> None:
    assert _run(_refuse, 2, 2, 2, rows=1000) == [[REFUSED] * 2] * 3


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
    assert brake.trial.is_proven


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
        trial = _try(ScriptedEngine(_refuse), 6)
        async with trial.unit(6):  # three of its images cannot be read
            requests = [Request(f"{n}", f"{n}", (), "What is it?") for n in range(3)]
            await asyncio.gather(*(trial.generate(r, SamplingConfig()) for r in requests))

    with pytest.raises(EngineError, match="the first 3 requests were all refused alike"):
        asyncio.run(run())


def test_no_request_is_sent_after_the_verdict() -> None:
    engine = ScriptedEngine(_refuse)

    async def run() -> None:
        trial = _try(engine, 999)
        for _ in range(3):
            with pytest.raises(EngineError):
                await _run_unit(trial, range(64))

    asyncio.run(run())
    assert engine.asked == 64


class LocalBrake(FakeBrake):
    """The part of a brake that a worker needs, in one process."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[S4VError] = []

    def is_pulled(self) -> bool:
        return bool(self.failures)

    async def is_pulled_now(self) -> bool:
        return self.is_pulled()

    def add_held(self, seconds: float) -> None:
        pass

    @contextmanager
    def reporting(self) -> Iterator[None]:
        try:
            yield
        except S4VError as error:
            self.failures.append(error)
            raise


ECHOES = Contract("echoes", result_schema("text_id", pa.field("engine", pa.string())), "text_id")


class EchoTask(Task[str]):
    """Asks about a text."""

    contract = ECHOES

    def prepare(self, planned: dict[str, Any], content: bytes | str | None) -> Prepared[str]:
        return Prepared(planned["text_id"])

    async def answer(self, about: str, pictures: tuple[Picture, ...], engine: Generator) -> Row:
        answer = await engine.generate(Request(about, about, (), "What?"), SamplingConfig())
        return self.fail(about, answer.reason or "") | {
            "status": "error" if answer.text is None else "ok",
            "reason": answer.reason,
            "engine": engine.version,
        }

    def fail(self, about: str, reason: str) -> Row:
        row = {"text_id": about, "status": "error", "reason": reason, "attempts": 1}
        return row | {"engine": None}


def _ask_worker(url: str, output: Path) -> tuple[pa.Table | None, LocalBrake]:
    """The rows of a worker's first unit, and its brake."""
    rows = [
        {"about": pickle.dumps(f"{n}"), "shapes": pickle.dumps([]), "pixels": b"", "unit": 0}
        for n in range(40)
    ]
    times = {"read_s": 0.0, "decode_s": 0.0}
    prepared = pa.Table.from_pylist([row | times for row in rows], schema=PREPARED_SCHEMA)
    engine = choose_engine("openai", "teacher", "model", EngineSettings(url=url, cpus=1))
    spec = FlowSpec(str(output), (), "run", engine, EchoTask(), trial_rows=100)
    brake = LocalBrake()
    try:
        return asyncio.run(EngineActor(spec, cast(Any, brake))(prepared)), brake
    except EngineError:
        return None, brake


def test_a_worker_ends_with_the_servers_words_or_gives_its_rows(tmp_path: Path) -> None:
    with open_endpoint() as endpoint:
        endpoint.reply = kinds.reply_too_long
        rows, brake = _ask_worker(endpoint.url, tmp_path)
    assert rows is None
    [error] = brake.failures
    assert "engine openai: the first 32 requests were all refused alike" in str(error)
    assert "HTTP 400: 'max_tokens' or 'max_completion_tokens' is too large: 512." in str(error)
    with open_endpoint() as endpoint:
        endpoint.reply = kinds.reply_like_gpt5
        rows, brake = _ask_worker(endpoint.url, tmp_path)
    assert brake.trial.is_proven
    assert rows is not None
    assert rows["status"].to_pylist() == ["ok"] * 40
    assert all("max_tokens as max_completion_tokens" in name for name in rows["engine"].to_pylist())


def test_an_answer_is_no_refusal() -> None:
    assert describe_refusal(ANSWERED) is None
    assert describe_refusal(fail("thinking_unfinished", "max 50")) == "thinking_unfinished max #"
