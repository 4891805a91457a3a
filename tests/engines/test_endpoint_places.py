"""Several endpoints of one model: each gets what it can take, and one may fail."""

import asyncio
from dataclasses import dataclass, field

import pytest

from s4v_core.engines.endpoint import EndpointEngine, WeatherError
from s4v_core.engines.metering import SpendingLimitError, Usage
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import EngineError

REQUEST = Request("a", "a", (), "What is it?")


@dataclass
class Client:
    """An endpoint that takes so many requests at once, and fails as told."""

    address: str
    most: int = 1000
    delay_s: float = 0.005
    failure: EngineError | None = None
    retry_after_s: float | None = None
    name: str = "test"
    version: str = "test 1"
    now: int = 0
    sent: list[int] = field(default_factory=list)
    turned_away: int = 0

    async def send(self, request: Request, sampling: SamplingConfig) -> Generation:
        self.now += 1
        self.sent.append(self.now)
        try:
            if self.failure:
                raise self.failure
            if self.now > self.most:
                self.turned_away += 1
                raise WeatherError("test", "HTTP 429", self.retry_after_s, is_overload=True)
            await asyncio.sleep(self.delay_s)
            return Generation("yes", "stop", 10, 5)
        finally:
            self.now -= 1


def _ask(clients: list[Client], count: int, meter: object = None, **settings: float) -> list[str]:
    async def ask() -> list[str]:
        engine = EndpointEngine(clients, EngineSettings(**settings), meter)  # type: ignore[arg-type]
        found = await asyncio.gather(
            *(engine.generate(REQUEST, SamplingConfig()) for _ in range(count))
        )
        return [str(one.endpoint) for one in found if one.text == "yes"]

    return asyncio.run(ask())


def test_requests_go_to_all_endpoints_and_answers_name_theirs() -> None:
    clients = [Client("a"), Client("b"), Client("c")]
    found = _ask(clients, 90, max_concurrent_requests=4)
    assert len(found) == 90
    assert all(found.count(client.address) >= 15 for client in clients)
    assert all(max(client.sent) <= 4 for client in clients)


def test_an_overloaded_endpoint_gets_less_and_others_take_its_part() -> None:
    slow, free = Client("slow", most=2), Client("free")
    found = _ask([slow, free], 400, max_concurrent_requests=16)
    assert len(found) == 400
    assert found.count("free") > found.count("slow") > 0
    # Without adapting, sixteen at once of which two are taken would be turned away all the time.
    assert slow.turned_away < 100


def test_a_lone_endpoint_finds_the_number_that_it_can_take() -> None:
    client = Client("a", most=8, delay_s=0.02, retry_after_s=0.05)
    found = _ask([client], 300, max_concurrent_requests=64)
    assert len(found) == 300
    assert client.turned_away < 150


def test_an_endpoint_with_a_wrong_key_is_left_out_and_the_last_one_raises() -> None:
    wrong = Client("wrong", failure=EngineError("test", "HTTP 401"))
    right = Client("right")
    assert _ask([wrong, right], 20) == ["right"] * 20
    assert len(wrong.sent) < 20
    other = Client("other", failure=EngineError("test", "HTTP 403"))
    with pytest.raises(EngineError, match="HTTP 40"):
        _ask([wrong, other], 5)


def test_a_time_that_an_endpoint_names_holds_for_all_its_requests() -> None:
    async def ask() -> float:
        client = Client("a", most=0, retry_after_s=1.5)
        engine = EndpointEngine([client], EngineSettings(max_concurrent_requests=4))
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(engine.generate(REQUEST, SamplingConfig()))
        await asyncio.sleep(0.05)
        client.most, started = 10, loop.time()
        await engine.generate(REQUEST, SamplingConfig())
        took = loop.time() - started
        await first
        return took

    assert asyncio.run(ask()) > 1.2


class Meter:
    """Notes what it is told, and refuses after so many requests."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.begun: list[str] = []
        self.ended: list[Usage | None] = []

    async def begin(self, endpoint: str, most: Usage) -> str:
        if len(self.begun) >= self.most:
            raise SpendingLimitError("test", "the spending limit is reached")
        self.begun.append(endpoint)
        return str(len(self.begun))

    async def end(self, ticket: str, used: Usage | None) -> None:
        self.ended.append(used)


def test_a_meter_sees_every_request_and_what_it_used() -> None:
    meter, client = Meter(), Client("a", most=1)
    _ask([client], 3, meter, max_concurrent_requests=2)
    assert len(meter.begun) == len(meter.ended) == len(client.sent)
    assert sorted(one.tokens for one in meter.ended if one) == [
        *[0] * client.turned_away,
        *[15] * 3,
    ]


def test_a_request_without_an_answer_may_have_been_charged() -> None:
    meter, client = Meter(), Client("a", delay_s=5.0)
    with pytest.raises(EngineError):
        _ask([client], 1, meter, request_timeout_s=0.1, endpoint_patience_s=0.5)
    assert meter.ended
    assert set(meter.ended) == {None}


def test_a_spending_limit_ends_even_an_engine_of_several_endpoints() -> None:
    with pytest.raises(SpendingLimitError):
        _ask([Client("a"), Client("b")], 10, Meter(most=4))
