"""Endpoints that fail, are busy or slow: requests are retried, and no image is blamed."""

import asyncio
import email.utils
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from s4v_core.engines import endpoint as endpoint_module
from s4v_core.engines.choice import choose_engine, start_engine
from s4v_core.engines.endpoint import EndpointEngine, WeatherError
from s4v_core.engines.fake import fake_caption
from s4v_core.engines.openai import build_messages, read_retry_after
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError, EngineError
from tests.engines.weather_endpoint import WeatherEndpoint, open_endpoint


@pytest.fixture
def endpoint() -> Iterator[WeatherEndpoint]:
    with open_endpoint() as found:
        yield found


def _requests(count: int) -> list[Request]:
    chance = np.random.default_rng(0)
    pictures = [chance.integers(0, 255, (56, 56, 3), dtype=np.uint8) for _ in range(count)]
    return [Request(f"{n}", f"{n}", (p,), "What is it?") for n, p in enumerate(pictures)]


def _ask(url: str, requests: Sequence[Request], **settings: float) -> list[Generation]:
    spec = choose_engine("openai", "teacher", "model", EngineSettings(url=url, **settings))
    engine = start_engine(spec)

    async def ask() -> list[Generation]:
        how = SamplingConfig(max_tokens=50)
        return list(await asyncio.gather(*(engine.generate(r, how) for r in requests)))

    return asyncio.run(ask())


def _compute_captions(requests: Sequence[Request]) -> list[str]:
    return [fake_caption(request.images[0]) for request in requests]


def test_openai_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="url"):
        choose_engine("openai", "gpt-4-vision", "model", EngineSettings())


def test_an_endpoint_gets_the_exact_pixels_and_may_refuse_one_image(
    endpoint: WeatherEndpoint,
) -> None:
    requests = _requests(4)
    wanted = _compute_captions(requests)
    endpoint.refused = {wanted[2]}
    found = _ask(endpoint.url, requests)
    assert [answer.text for answer in found] == [*wanted[:2], None, wanted[3]]
    assert found[2].reason == "engine_refused:BadRequestError"
    assert found[0].output_tokens == 7
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_bad_weather_is_waited_out(endpoint: WeatherEndpoint, status: int) -> None:
    endpoint.statuses = [status] * 3
    requests = _requests(4)
    assert [answer.text for answer in _ask(endpoint.url, requests)] == _compute_captions(requests)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_error_that_concerns_every_request_is_raised_at_once(
    endpoint: WeatherEndpoint, status: int
) -> None:
    endpoint.statuses = [status]
    started = time.monotonic()
    with pytest.raises(EngineError, match=f"engine openai: HTTP {status}"):
        _ask(endpoint.url, _requests(1))
    assert time.monotonic() - started < 5


def test_the_time_that_an_endpoint_names_is_waited_for(endpoint: WeatherEndpoint) -> None:
    endpoint.statuses, endpoint.retry_after = [429], "4"
    started = time.monotonic()
    [answer] = _ask(endpoint.url, _requests(1))
    assert answer.text
    assert time.monotonic() - started >= 4


def test_every_third_connection_is_reset(endpoint: WeatherEndpoint) -> None:
    endpoint.reset_every = 3
    requests = _requests(12)
    assert [answer.text for answer in _ask(endpoint.url, requests)] == _compute_captions(requests)


def test_an_endpoint_that_comes_back_answers_everyone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    opened: list[WeatherEndpoint] = []
    timer = threading.Timer(3, lambda: opened.append(WeatherEndpoint(port)))
    timer.start()
    requests = _requests(6)
    try:
        found = _ask(f"http://127.0.0.1:{port}/v1", requests)
    finally:
        timer.join()
        opened[0].close()
    assert [answer.text for answer in found] == _compute_captions(requests)


def test_an_answer_later_than_the_deadline_is_requested_again_until_patience_ends(
    endpoint: WeatherEndpoint,
) -> None:
    endpoint.delay_s = 2.0
    with pytest.raises(EngineError, match=r"no answer within 0\.3 s .* no answer for 2 s") as found:
        _ask(endpoint.url, _requests(1), request_timeout_s=0.3, endpoint_patience_s=2.0)
    assert not isinstance(found.value, WeatherError)
    assert len(endpoint.requests) >= 2


def test_an_unreachable_endpoint_blames_no_image() -> None:
    with pytest.raises(EngineError, match="Connection"):
        _ask("http://127.0.0.1:9/v1", _requests(1), endpoint_patience_s=1.0)


def test_an_address_that_never_answered_gets_a_minute_and_not_half_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_CONTACT_S", 1.0)
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"no answer for 1 s \(--settings\.url\)"):
        _ask("http://127.0.0.1:9/v1", _requests(1))
    assert time.monotonic() - started < 20


def test_a_wait_that_patience_cannot_bear_ends_at_once(endpoint: WeatherEndpoint) -> None:
    endpoint.statuses, endpoint.retry_after = [429] * 9, "3600"
    started = time.monotonic()
    with pytest.raises(EngineError, match="HTTP 429"):
        _ask(endpoint.url, _requests(1), endpoint_patience_s=60.0)
    assert time.monotonic() - started < 5


def test_no_more_requests_are_under_way_than_allowed() -> None:
    class Client:
        name = version = address = "test"
        now = most = 0

        async def send(self, request: Request, sampling: SamplingConfig) -> Generation:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return Generation("yes", "stop", 1, 1)

    async def ask() -> int:
        client = Client()
        engine = EndpointEngine([client], EngineSettings(max_concurrent_requests=3))
        await asyncio.gather(*(engine.generate(r, SamplingConfig()) for r in _requests(20)))
        return client.most

    assert asyncio.run(ask()) == 3


def test_a_whole_conversation_becomes_messages(endpoint: WeatherEndpoint) -> None:
    first, second = (request.images[0] for request in _requests(2))
    request = Request(
        "a", "a", (first, second), "And now?", (("What is it?", "A cat."),), "Be brief.", (0, 1)
    )
    messages = build_messages(request)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    kinds = [[part["type"] for part in messages[at]["content"]] for at in (1, 3)]
    assert kinds == [["image_url", "text"], ["image_url", "text"]]
    [answer] = _ask(endpoint.url, [request])
    assert answer.text == f"{fake_caption(first)} {fake_caption(second)}"
    [text_only] = _ask(endpoint.url, [Request("b", "b", (), "Which is better?")])
    assert text_only.text == "No pictures came with this."
    assert endpoint.requests[-1]["messages"] == [{"role": "user", "content": "Which is better?"}]
    [raw] = _ask(endpoint.url, [Request("c", "c", (), "once upon", is_raw=True)])
    assert raw.reason == "engine_refused:raw_prompt"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds


def test_retry_after_as_a_date_to_come() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    found = read_retry_after({"retry-after": date})
    assert found is not None
    assert 28 < found < 31
