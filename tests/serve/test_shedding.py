"""Load shedding in the proxy: in front of a simulated application, and in a running proxy."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from ray.serve._private.utils import call_function_from_import_path
from starlette.middleware import Middleware

from serve.front.door import DoorProtocol
from serve.front.exchange import Message, Receive, Scope, Send
from serve.front.node_variables import PROXY_CALLBACK
from serve.front.proxy_errors import ProxyErrors
from serve.front.refusals import Refusal, make_overload_refusal
from serve.front.shedding import (
    LIMIT_LIFETIME_S,
    LIMIT_STEP,
    ConcurrencyLimit,
    Shedding,
)
from tests.conftest import photo
from tests.serve.service import FAKE, served

PLACES, ROUNDS, ARRIVING = 12, 60, 120
"""In each round, ten times as many requests arrive as can be served."""
CAPTION = "/v1/caption"
HEADERS = [(b"content-length", b"10")]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Engines:
    """An ASGI app with a fixed number of places, each taken until the round is over."""

    def __init__(self) -> None:
        self.round_over = asyncio.Event()
        self.received: Counter[str] = Counter()
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.received[scope["method"]] += 1
        if self._taken >= PLACES:
            await _say(send, make_overload_refusal())
            return
        self._taken += 1
        await self.round_over.wait()
        self._taken -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _say(send: Send, refusal: Refusal) -> None:
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers().items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body()})


def _ignore(report: Mapping[str, Any]) -> None:
    pass


async def _ask(app: Any, path: str = CAPTION, headers: Any = HEADERS, method: str = "POST") -> Any:
    """Send a request and return the first message of the answer."""
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    return said[0]


async def _flood() -> tuple[Counter[int], Counter[str], list[str]]:
    """Count the statuses of answers and the requests that reached the engines, both without the
    first ten rounds. Returns also the codes of the refusals."""
    engines, reports = Engines(), []
    app = Shedding(engines, lambda report: reports.append(report["code"]))
    statuses = Counter[int]()
    for number in range(ROUNDS):
        if number == 10:
            statuses, engines.received = Counter(), Counter()
        engines.round_over.clear()
        tasks = [asyncio.create_task(_ask(app)) for _ in range(ARRIVING)]
        for _ in range(10):
            await asyncio.sleep(0)
        engines.round_over.set()
        statuses += Counter(answer["status"] for answer in await asyncio.gather(*tasks))
    return statuses, engines.received, reports


def test_under_ten_times_the_load_engines_stay_full_and_receive_few_more_requests() -> None:
    statuses, asked, reports = asyncio.run(_flood())
    full = (ROUNDS - 10) * PLACES
    assert sum(statuses.values()) == (ROUNDS - 10) * ARRIVING
    assert statuses[200] == full
    assert full < asked["POST"] <= 1.5 * full
    assert set(reports) == {"overloaded"}


def test_a_limit_is_learnt_moves_in_small_steps_and_expires() -> None:
    clock = Clock()
    limit = ConcurrencyLimit(clock)
    limit.running = 1000
    assert limit.has_room()
    limit.running = 5
    limit.narrow()
    assert not limit.has_room()
    limit.running = 4
    assert limit.has_room()
    limit.widen()  # no effect below the limit
    limit.running = 5
    for _ in range(round(1 / LIMIT_STEP)):
        assert not limit.has_room()
        limit.widen()
    assert limit.has_room()
    limit.running = 6
    assert not limit.has_room()
    for _ in range(10):
        limit.narrow()
    limit.running = 0
    assert limit.has_room(), "one may always come in"
    limit.running = 1
    assert not limit.has_room()
    clock.now = LIMIT_LIFETIME_S
    assert limit.has_room()


async def _after(refusal: Refusal, **asked: Any) -> Any:
    """Answer to a request that is sent while another one runs and after one was refused."""
    answers, hold = [refusal], asyncio.Event()

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == CAPTION and answers:
            await _say(send, answers.pop())
            return
        if not hold.is_set():
            hold.set()
            await asyncio.sleep(3600)
        await send({"type": "http.response.start", "status": 204, "headers": []})

    app = Shedding(behind, _ignore)
    assert (await _ask(app))["status"] == refusal.status
    inside = asyncio.create_task(_ask(app))
    await hold.wait()
    try:
        return await _ask(app, **asked)
    finally:
        inside.cancel()


KEYS_OWN = Refusal(429, "rate_limited", "This key may have 1 request a minute.", retry_after_s=60)


@pytest.mark.parametrize(
    ("refusal", "asked", "status"),
    [
        (make_overload_refusal(), {}, 429),
        (make_overload_refusal(), {"method": "GET"}, 204),
        (make_overload_refusal(), {"path": "/v1/chat/completions"}, 204),
        (make_overload_refusal(), {"path": "/healthz"}, 204),
        (KEYS_OWN, {}, 204),
        (Refusal(503, "engine_unavailable", "No engine can answer now.", 2), {}, 204),
    ],
)
def test_only_requests_to_busy_engines_are_refused(
    refusal: Refusal, asked: dict[str, Any], status: int
) -> None:
    assert asyncio.run(_after(refusal, **asked))["status"] == status


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ([(b"content-length", b"20000000")], False),
        ([(b"content-length", b"2000000000")], True),
        ([(b"content-length", b"9"), (b"content-length", b"8")], True),
        ([(b"content-length", b"\xb2")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_the_refusal_looks_like_the_ingresss_and_reaches_a_client_that_is_still_sending(
    headers: list[tuple[bytes, bytes]], closes: bool
) -> None:
    found = dict(asyncio.run(_after(make_overload_refusal(), headers=headers))["headers"])
    assert found[b"retry-after"] == b"2"
    assert found[b"content-type"] == b"application/json"
    assert found[b"x-content-type-options"] == b"nosniff"
    assert len(found[b"x-request-id"]) == 32
    assert (b"connection" in found) == closes


def test_ray_finds_the_middlewares_by_their_name_and_its_server_gets_the_door() -> None:
    found = call_function_from_import_path(PROXY_CALLBACK)
    assert all(isinstance(middleware, Middleware) for middleware in found)
    # Serve wraps in this order: shedding is the outermost.
    assert [middleware.cls for middleware in found] == [ProxyErrors, Shedding]
    config = uvicorn.Config(lambda: None, factory=True, log_config=None)
    config.load()
    assert config.http_protocol_class is DoorProtocol


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("local_ray")
def test_a_running_proxy_refuses_before_it_asks_for_a_key(tmp_path: Path) -> None:
    settings = {"cpus": 1, "max_num_seqs": 1, "fake_latency_s": 5.0}
    one = {"min_replicas": 1, "max_replicas": 1, "max_ongoing_requests": 1}
    model = FAKE | {"settings": settings, "scaling": one | {"max_queued_requests": 1}}
    headers = {"content-type": "image/jpeg"}
    with (
        served(tmp_path, model) as service,
        service.http() as client,
        service.http() as nobody,
        ThreadPoolExecutor(8) as pool,
    ):

        def ask(_: int) -> int:
            return client.post(CAPTION, content=photo(1), headers=headers).status_code

        asked = pool.map(ask, range(8))
        codes = set[str]()
        nobody.headers["authorization"] = "Bearer none"
        while "overloaded" not in codes:
            ask(0)  # another request with a key, which must be refused as overloaded
            answer = nobody.post(CAPTION, content=photo(1), headers=headers)
            assert answer.status_code in (401, 429), answer.text
            codes.add(answer.json()["error"]["code"])
        assert set(asked) == {200, 429}
