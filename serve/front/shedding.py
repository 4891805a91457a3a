"""Load shedding in Ray Serve's proxy: refuses requests early while the engines are busy.

When an ingress replica refuses a request, this has already cost the proxy, Ray and the replica
several milliseconds of CPU, and the answer waits in line with all others: at ten times the
capacity, requests that could be served wait for seconds. This middleware refuses where a request
arrives. How many requests may run at a time is learnt from the answers, as TCP learns its window:
when the ingress refuses because the engines are busy, the limit falls by one; each answer at the
limit raises it by a quarter.

`middlewares` also brings the limits on connections (`door.py`) and the errors of the proxy in
OpenAI's shape (`proxy_errors.py`).

It runs in the proxies if the environment of Ray's nodes says so (`node_variables.py`). Without it
the endpoints answer the same, but later, and heads of requests have no limits. Ray's HAProxy mode
(RAY_SERVE_ENABLE_HA_PROXY) has no Python proxy, so this module does not work there; the mode is
refused when the application is built.
"""

import math
import time
from collections.abc import Callable
from typing import Any

from serve.front.door import install_door
from serve.front.exchange import App, Message, Receive, Scope, Send
from serve.front.limits import find_header_values
from serve.front.metrics import ROUTES, count_request
from serve.front.proxy_errors import OnReport, ProxyErrors, refuse_in_proxy
from serve.front.refusals import OVERLOADED_HEADER, make_overload_refusal

LIMIT_STEP = 0.25
"""How much an answer raises the limit. With a quarter, out of five requests that arrive at the
limit, four are answered and one is refused."""

LIMIT_LIFETIME_S = 5.0
"""Seconds without a refusal from the ingress after which the limit is dropped."""

_REQUEST_ID = b"x-request-id"


class ConcurrencyLimit:
    """How many requests may run at a time, learnt from their answers.

    Attributes:
        running: Number of requests that are running now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.running = 0
        self._limit, self._expires = math.inf, 0.0

    def has_room(self) -> bool:
        """Whether another request may start."""
        if self._clock() >= self._expires:
            self._limit = math.inf
        return self.running + 1 <= self._limit

    def narrow(self) -> None:
        """Lower the limit, because a running request was refused by busy engines."""
        self._limit = max(min(self._limit - 1, self.running), 1)
        self._expires = self._clock() + LIMIT_LIFETIME_S

    def widen(self) -> None:
        """Raise the limit, because a running request was answered. Has no effect below the limit,
        so that it does not grow without bound in idle times."""
        if self.running + 1 > self._limit:
            self._limit += LIMIT_STEP


class Shedding:
    """ASGI middleware that sheds load. Each route has its own limit, because routes often lead to
    different models.

    Args:
        app: The app behind it.
        on_refusal: Called with the report (`Exchange.build_report`) of every request that is
            refused here.
    """

    def __init__(self, app: App, on_refusal: OnReport) -> None:
        self._app, self._on_refusal = app, on_refusal
        self._limits = {path: ConcurrencyLimit() for path in ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = _drop_second_id(send)
        limit = self._limits.get(scope.get("path", ""))
        if limit is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if not limit.has_room():
            await self._refuse(scope, send)
            return
        limit.running += 1
        try:
            await self._app(scope, receive, _adjust_on_answer(limit, send))
        finally:
            limit.running -= 1

    async def _refuse(self, scope: Scope, send: Send) -> None:
        self._on_refusal(await refuse_in_proxy(scope, send, make_overload_refusal()))


def _adjust_on_answer(limit: ConcurrencyLimit, send: Send) -> Send:
    """Wrap `send` so that the status of the answer adjusts the limit."""

    async def send_and_adjust(message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 200:
                limit.widen()
            elif _is_overload(message):
                limit.narrow()
        await send(message)

    return send_and_adjust


def _drop_second_id(send: Send) -> Send:
    """Wrap `send` so that an answer has one x-request-id: Ray's proxy adds its own behind the one
    that the ingress gave."""

    async def send_with_one_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            places = [n for n, (name, _) in enumerate(headers) if name.lower() == _REQUEST_ID]
            kept = [pair for n, pair in enumerate(headers) if n not in places[1:]]
            message = {**message, "headers": kept}
        await send(message)

    return send_with_one_id


def _is_overload(answer: Message) -> bool:
    """Whether the answer is a 429 because the engines are busy: one with this package's header, or
    Ray Serve's own, which is plain text. A 429 for a key's own limit is neither."""
    if answer["status"] != 429:
        return False
    headers = answer["headers"]
    is_ours = bool(find_header_values(headers, OVERLOADED_HEADER.encode()))
    types = find_header_values(headers, b"content-type")
    return is_ours or any(value.startswith(b"text/") for value in types)


def middlewares() -> list[Any]:
    """Build the middlewares for Ray Serve's proxy: instances of starlette's Middleware.

    Serve calls this in each proxy before the proxy listens, so the door's limits are set here, too.
    """
    from starlette.middleware import Middleware

    install_door()
    return [
        Middleware(ProxyErrors, on_refusal=count_request),
        Middleware(Shedding, on_refusal=count_request),
    ]
