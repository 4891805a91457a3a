"""What Ray Serve's proxy refuses by itself while engines are busy.

An ingress that refuses has cost the proxy, Ray and itself several milliseconds of CPU, and its
answer stands in line with all others: at ten times the capacity those who could be served wait for
seconds. Here a request that cannot be served is refused where it arrives. How many may be inside is
learnt from the answers, as TCP learns it: an ingress that refuses for want of room lowers the
limit by one, an answer at the limit raises it by a quarter.

Runs in the proxies: the environment of Ray's nodes sets
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.front.shedding:middlewares. Without it endpoints
answer the same, later.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from serve.front.exchange import App, Exchange, Message, Receive, Scope, Send
from serve.front.limits import values
from serve.front.metrics import ROUTES, count_request
from serve.front.refusals import BUSY, overloaded

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Of the nodes' environment; holds CALLBACK."""
CALLBACK = "serve.front.shedding:middlewares"

PROBE = 0.25
"""What an answer adds to the limit: of five that come in at the limit, four are answered and one is
refused."""

BELIEVED_S = 5.0
"""Without a refusal from behind for so long, there is no limit any more."""

READ_BYTES = 32 << 20
"""A body of declared length up to this is read to its end, for who is still sending would find the
connection broken and never see the answer."""


class Limit:
    """How many requests may be inside at a time.

    Attributes:
        inside: That are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.inside = 0
        self._most, self._until = math.inf, 0.0

    def has_room(self) -> bool:
        """Whether another one may come in."""
        if self._clock() >= self._until:
            self._most = math.inf
        return self.inside + 1 <= self._most

    def narrow(self) -> None:
        """One of those inside was refused for want of room."""
        self._most = max(min(self._most - 1, self.inside), 1)
        self._until = self._clock() + BELIEVED_S

    def widen(self) -> None:
        """One of those inside was answered. Counts where the limit is felt: many idle minutes must
        not make it meaningless."""
        if self.inside + 1 > self._most:
            self._most += PROBE


class Shedding:
    """ASGI middleware. Each route has a limit of its own, for often it is another model's.

    Args:
        app: What is behind it.
        told: Hears of every request that is refused here (`Exchange.report`).
    """

    def __init__(self, app: App, told: Callable[[Mapping[str, Any]], None]) -> None:
        self._app, self._told = app, told
        self._limits = {path: Limit() for path in ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limits.get(scope.get("path", ""))
        if limit is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if not limit.has_room():
            await self._refuse(scope, send)
            return
        limit.inside += 1
        try:
            await self._app(scope, receive, _learning(limit, send))
        finally:
            limit.inside -= 1

    async def _refuse(self, scope: Scope, send: Send) -> None:
        exchange = Exchange(scope, send, is_page=False)
        lengths = values(scope["headers"], b"content-length")
        is_short = len(lengths) == 1 and lengths[0].isdigit() and int(lengths[0]) <= READ_BYTES
        await exchange.refuse(overloaded(), keeps=is_short)
        self._told(exchange.report())


def _learning(limit: Limit, send: Send) -> Send:
    async def learning(message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 200:
                limit.widen()
            elif _wants_room(message):
                limit.narrow()
        await send(message)

    return learning


def _wants_room(answer: Message) -> bool:
    """Whether engines are busy; Ray's own word for it is plain text. A key's limits are not."""
    if answer["status"] != 429:
        return False
    headers = answer["headers"]
    is_ours = bool(values(headers, BUSY.encode()))
    return is_ours or any(v.startswith(b"text/") for v in values(headers, b"content-type"))


def middlewares() -> list[Any]:
    """For Ray Serve's proxy: instances of starlette's Middleware."""
    from starlette.middleware import Middleware

    return [Middleware(Shedding, told=count_request)]
