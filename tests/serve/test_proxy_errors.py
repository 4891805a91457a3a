"""Errors of Serve's own proxy, in front of an app that answers as the proxy does."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve._private.http_util import (
    get_http_response_status,
    send_http_response_on_exception,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.front.exchange import Message, Receive, Scope, Send
from serve.front.proxy_errors import ProxyErrors
from serve.front.refusals import make_overload_refusal

TEXT = [(b"content-type", b"text/plain; charset=utf-8")]


def ask(
    start: Message, path: str = "/v1/models", method: str = "GET", body: bytes = b"Ray's own words"
) -> tuple[list[Message], list[Mapping[str, Any]]]:
    """Send a request to an app that answers with `start`. Returns the answer and the reports."""
    said: list[Message] = []
    reports: list[Mapping[str, Any]] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": body[:3], "more_body": True})
        await send({"type": "http.response.body", "body": body[3:]})

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    asyncio.run(ProxyErrors(proxy, reports.append)(scope, receive, send))
    return said, reports


@pytest.mark.parametrize(
    ("status", "answered", "code"),
    [
        (429, 429, "overloaded"),
        (408, 504, "timeout"),
        (404, 404, "not_found"),
        (503, 503, "engine_unavailable"),
        (500, 500, "internal_error"),
        (502, 502, "internal_error"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_error_of_the_proxy_gets_openais_form(
    status: int, answered: int, code: str, method: str
) -> None:
    (start, body), [report] = ask({"status": status, "headers": TEXT}, method=method)
    error = json.loads(body["body"])["error"]
    assert (start["status"], error["code"]) == (answered, code)
    assert error.keys() == {"message", "type", "param", "code"}
    assert "Ray" not in error["message"]
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert (b"retry-after" in headers) == (status in (429, 503))
    assert report["code"] == code


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health"])
@pytest.mark.parametrize(("method", "said"), [("GET", b"ok"), ("HEAD", b"")])
def test_a_health_check_that_a_full_ingress_refuses_is_answered(
    path: str, method: str, said: bytes
) -> None:
    (start, body), reports = ask({"status": 429, "headers": TEXT}, path, method)
    assert (start["status"], body["body"]) == (200, said)
    assert reports == []


@pytest.mark.parametrize("status", [404, 503, 500])
def test_a_health_check_does_not_hide_that_nothing_runs(status: int) -> None:
    (start, _), _ = ask({"status": status, "headers": TEXT}, "/healthz")
    assert start["status"] == status


OURS = [*TEXT, (b"x-content-type-options", b"nosniff")]


@pytest.mark.parametrize(
    ("start", "path"),
    [
        ({"status": 200, "headers": TEXT}, "/v1/models"),
        ({"status": 503, "headers": OURS}, "/readyz"),
        ({"status": 429, "headers": [(b"content-type", b"application/json")]}, "/v1/models"),
        ({"status": 503, "headers": TEXT}, "/-/healthz"),
        ({"status": 404, "headers": TEXT}, "/-/nothing"),
    ],
)
def test_every_other_answer_passes_unchanged(start: Message, path: str) -> None:
    messages, reports = ask(start, path)
    assert messages[0] == {"type": "http.response.start", **start}
    assert b"".join(message["body"] for message in messages[1:]) == b"Ray's own words"
    assert reports == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackPressureError(1, 1, status_code=429, retry_after_s=2.0), 429),
        (DeploymentUnavailableError("Ingress"), 503),
        (TimeoutError(), 504),
    ],
)
def test_what_serve_makes_of_its_errors_is_recognised(error: Exception, status: int) -> None:
    """The answers are made by the installed Serve itself."""
    found = get_http_response_status(error, 1.0, "r1")
    messages = send_http_response_on_exception(found, response_started=False)
    start = {name: value for name, value in messages[0].items() if name != "type"}
    (answer, *_), [report] = ask(start)
    assert answer["status"] == status == report["status"]


def test_shedding_still_learns_from_a_refusal_in_the_new_form() -> None:
    from serve.front.shedding import _is_overload

    (start, _), _ = ask({"status": 429, "headers": TEXT}, method="POST")
    assert _is_overload(start)
    assert make_overload_refusal().headers().keys() <= {
        name.decode() for name, _ in start["headers"]
    }


def test_a_replica_that_died_says_nothing_of_itself() -> None:
    assert (
        send_http_response_on_exception(
            get_http_response_status(RayActorError(), 1.0, "r1"), response_started=False
        )
        == []
    ), "Serve leaves a 500 to the server, which this middleware then sees as no answer"
