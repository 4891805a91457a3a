"""Engines that die or hang: the images at fault are found, all others are captioned."""

import asyncio
import math
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from s4v_core.engines.fake import FakeEngine, fake_caption
from s4v_core.engines.fake_faults import Fault
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.engines.supervision import SupervisedEngine, supervise
from s4v_core.errors import EngineError

T = TypeVar("T")


def _request(number: int, fault: Fault | None) -> Request:
    pixels = np.full((8, 8, 3), (255, 0, int(fault)) if fault else (number % 250, 7, 7), np.uint8)
    pixels[1, 1] = number % 256, number // 256, 1
    return Request(f"{number}", f"{number}", (pixels,), "What is it?")


def _requests(count: int, faults: dict[int, Fault]) -> list[Request]:
    return [_request(number, faults.get(number)) for number in range(count)]


def _answer_all(
    requests: Sequence[Request], silence_limit_s: float = 30, max_starts: int = 200
) -> tuple[list[Generation | EngineError], int]:
    spec = EngineSpec("fake", "none", "none", EngineSettings(fake_faults=True), "cpu")

    async def run() -> tuple[list[Generation | EngineError], int]:
        engine = supervise(lambda: FakeEngine(spec), silence_limit_s, max_starts)
        try:
            answers = await asyncio.wait_for(
                asyncio.gather(
                    *(engine.generate(request, SamplingConfig()) for request in requests),
                    return_exceptions=True,
                ),
                timeout=100,
            )
        finally:
            engine.close()
        return answers, engine.starts

    return asyncio.run(run())


@pytest.mark.parametrize("fault", [Fault.EXIT, Fault.SEGV, Fault.ASSERT, Fault.HOG])
@pytest.mark.parametrize("poisoned", [1, 5, 20])
def test_exactly_the_poisoned_images_fail(fault: Fault, poisoned: int) -> None:
    chance = np.random.default_rng(poisoned)
    faults = dict.fromkeys(map(int, chance.choice(256, poisoned, replace=False)), fault)
    requests = _requests(256, faults)
    answers, starts = _answer_all(requests)
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        assert isinstance(answer, Generation)
        if number in faults:
            assert (answer.text, answer.reason) == (None, "engine_died")
        else:
            assert answer.text == fake_caption(request.images[0])
    assert starts - 1 <= poisoned * (2 + math.log2(256))


def test_an_image_that_an_engine_never_comes_back_from_is_a_hang() -> None:
    requests = _requests(16, {11: Fault.HANG})
    answers, starts = _answer_all(requests, silence_limit_s=0.5)
    reasons = [a.reason for a in answers if isinstance(a, Generation)]
    assert reasons == [None] * 11 + ["hang"] + [None] * 4
    assert starts <= 1 + 6


def test_requests_that_come_while_suspects_are_tried_wait_and_are_answered() -> None:
    # The engine has 256 slots: two thirds of the requests start only when earlier ones end.
    requests = _requests(768, {3: Fault.EXIT, 700: Fault.SEGV})
    answers, _ = _answer_all(requests)
    bad = [n for n, a in enumerate(answers) if not (isinstance(a, Generation) and a.text)]
    assert bad == [3, 700]


def test_after_too_many_engine_deaths_every_request_fails_with_a_sentence() -> None:
    faults = dict.fromkeys(range(0, 64, 4), Fault.EXIT)
    answers, starts = _answer_all(_requests(64, faults), max_starts=4)
    assert starts == 4
    failed = [a for a in answers if isinstance(a, EngineError)]
    assert failed
    assert str(failed[0]) == "engine supervised: 4 engines died; gave up"
    assert len(failed) + sum(isinstance(a, Generation) for a in answers) == 64


def test_a_stopped_engine_is_killed_and_replaced_and_nobody_is_blamed() -> None:
    spec = EngineSpec("fake", "none", "none", EngineSettings(fake_faults=True), "cpu")
    requests = _requests(64, {})

    async def run() -> tuple[list[Generation], int]:
        first = FakeEngine(spec)
        assert first._process
        first._process._child.send_signal(signal.SIGSTOP)
        engines = iter([first])
        engine = supervise(lambda: next(engines, None) or FakeEngine(spec), 0.5, 10)
        answers = await asyncio.gather(*(engine.generate(r, SamplingConfig()) for r in requests))
        engine.close()
        return answers, engine.starts

    answers, starts = asyncio.run(run())
    assert [a.text for a in answers] == [fake_caption(request.images[0]) for request in requests]
    assert starts == 2


def test_every_caller_hears_that_an_engine_does_not_start_again() -> None:
    spec = EngineSpec("fake", "none", "none", EngineSettings(fake_faults=True), "cpu")
    starts = 0

    def build() -> FakeEngine:
        nonlocal starts
        starts += 1
        if starts > 1:
            raise RuntimeError("no memory left")
        return FakeEngine(spec)

    async def run() -> list[BaseException | Generation]:
        engine = supervise(build, 30, 10)
        requests = _requests(8, {2: Fault.EXIT})
        first = await asyncio.gather(
            *(engine.generate(r, SamplingConfig()) for r in requests), return_exceptions=True
        )
        later = await asyncio.gather(
            engine.generate(requests[0], SamplingConfig()), return_exceptions=True
        )
        return first + later

    answers = asyncio.run(asyncio.wait_for(run(), 30))
    assert [str(a) for a in answers if isinstance(a, RuntimeError)][-1] == "no memory left"
    assert isinstance(answers[-1], RuntimeError)


def _run_with_engine(
    work: Callable[[SupervisedEngine[Generation]], Awaitable[T]], **settings: Any
) -> T:
    spec = EngineSpec("fake", "none", "none", EngineSettings(**settings), "cpu")

    async def run() -> T:
        engine = supervise(lambda: FakeEngine(spec), 30, 10)
        try:
            return await asyncio.wait_for(work(engine), timeout=60)
        finally:
            engine.close()

    return asyncio.run(run())


def test_the_streamed_pieces_make_up_the_answer() -> None:
    pieces: list[str] = []

    async def work(engine: SupervisedEngine[Generation]) -> Generation:
        return await engine.generate(_request(1, None), SamplingConfig(), pieces.append)

    answer = _run_with_engine(work)
    assert len(pieces) > 5
    assert "".join(pieces) == answer.text


def test_a_cancelled_request_frees_its_place_and_is_blamed_for_nothing() -> None:
    async def work(engine: SupervisedEngine[Generation]) -> tuple[Generation, int]:
        tasks = [
            asyncio.create_task(engine.generate(_request(n, None), SamplingConfig()))
            for n in range(4)
        ]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        answer = await engine.generate(_request(9, None), SamplingConfig())
        return answer, engine.starts

    answer, starts = _run_with_engine(work, max_num_seqs=4, fake_latency_s=2.0)
    assert answer.text == fake_caption(_request(9, None).images[0])
    assert starts == 1
