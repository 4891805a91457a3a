"""Answers of Serve's proxy itself, in the shape of OpenAI's errors.

When the ingress replicas are full, or one of them is gone, Serve answers in plain text, which no
OpenAI client can read. A full ingress also refuses health checks; they get their "ok" here, because
a balancer would otherwise drop the node just when it is busy.
"""

from collections.abc import Callable, Mapping
from typing import Any

from serve.front.exchange import App, Exchange, Message, Receive, Scope, Send
from serve.front.limits import find_header_values
from serve.front.refusals import RETRY_AFTER_S, Refusal, make_overload_refusal

HEALTH_PATHS = frozenset({"/healthz", "/readyz", "/health"})
"""Health checks, which need no key and are answered however busy the ingress is."""

_SERVES_OWN = "/-/"
"""Prefix of the paths that Serve itself answers."""

_DRAIN_BYTES = 32 << 20
"""Bodies of declared length up to this are drained, so that a client that is still sending receives
the refusal instead of a broken connection."""

OnReport = Callable[[Mapping[str, Any]], None]
"""Called with the report (`Exchange.build_report`) of a request."""


class ProxyErrors:
    """ASGI middleware that replaces the errors of Serve's proxy.

    Args:
        app: The app behind it.
        on_refusal: Called with the report of every request whose answer is replaced.
    """

    def __init__(self, app: App, on_refusal: OnReport) -> None:
        self._app, self._on_refusal = app, on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_SERVES_OWN):
            await self._app(scope, receive, send)
            return
        is_replaced = False

        async def send_or_replace(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and _is_from_proxy(message):
                is_replaced = True
                await self._replace(scope, send, message["status"])
            elif not is_replaced:
                await send(message)

        await self._app(scope, receive, send_or_replace)

    async def _replace(self, scope: Scope, send: Send, status: int) -> None:
        if status == 429 and scope["path"] in HEALTH_PATHS and scope["method"] in ("GET", "HEAD"):
            await _say_ok(scope, send)
            return
        report = await refuse_in_proxy(scope, send, _translate(status))
        self._on_refusal(report)


async def refuse_in_proxy(scope: Scope, send: Send, refusal: Refusal) -> dict[str, Any]:
    """Answer a request in the proxy. Returns its report."""
    exchange = Exchange(scope, send, is_page=False)
    lengths = find_header_values(scope["headers"], b"content-length")
    is_short = len(lengths) == 1 and lengths[0].isdigit() and int(lengths[0]) <= _DRAIN_BYTES
    await exchange.refuse(refusal, keep_open=is_short)
    return exchange.build_report()


def _is_from_proxy(start: Message) -> bool:
    """Whether an answer is an error of Serve's own: text, without the headers of the guard."""
    headers = start.get("headers", ())
    is_ours = bool(find_header_values(headers, b"x-content-type-options"))
    types = find_header_values(headers, b"content-type")
    is_text = not types or any(value.startswith(b"text/") for value in types)
    return start["status"] >= 400 and is_text and not is_ours


def _translate(status: int) -> Refusal:
    if status == 429:
        return make_overload_refusal()
    if status == 408:
        return Refusal(504, "timeout", "The answer took too long.")
    if status == 404:
        return Refusal(404, "not_found", "There is nothing here, or the endpoints are starting.")
    if status == 503:
        message = "No replica can answer now."
        return Refusal(503, "engine_unavailable", message, RETRY_AFTER_S)
    return Refusal(max(status, 500), "internal_error", "Something went wrong here.")


async def _say_ok(scope: Scope, send: Send) -> None:
    exchange = Exchange(scope, send, is_page=False)
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else b"ok"
    await exchange.send({"type": "http.response.body", "body": body})
