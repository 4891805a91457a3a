"""The outermost layer of the endpoints: who may come in, how much they may send, what is said.

Pure ASGI and closed by default. It looks at `scope["path"]` as it was given and never at an
address put together from the Host header, and knows nothing of the routes behind it.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import Field

from s4v_core.config import Config
from serve.front.exchange import App, Exchange, Receive, Scope, Send
from serve.front.limits import Body, Turnstile, declared_length, refuse_long_head, values
from serve.front.refusals import Refusal
from serve.keys import Key, Keyring

logger = logging.getLogger(__name__)
access = logging.getLogger("s4v.access")

HEALTH = frozenset({"/healthz", "/readyz"})
PAGE_FILE = re.compile(r"/page/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
ANYONE = Key("anyone", b"")
"""Whose limits count where no keys are asked for."""


class GuardConfig(Config):
    """Who may ask the endpoints, and how much."""

    keys_file: str = ""
    """File of API keys (`python -m serve.keys` makes one); empty: no key is known, and everything
    but health and page is refused."""
    open_to_all: bool = False
    """Ask for no key: only behind another gateway."""
    max_body_mib: int = Field(25, ge=1)
    """Size of a request's body."""
    max_header_kib: int = Field(32, ge=1)
    """Size of a request's line and headers together."""
    body_limit_s: float = Field(15.0, gt=0, allow_inf_nan=False)
    """Seconds that may be spent waiting for a request's body, all of it."""
    requests_per_minute: int = Field(600, ge=1)
    """Of a key that says nothing else; per ingress replica."""
    concurrent: int = Field(64, ge=1)
    """Requests at a time of a key that says nothing else; per ingress replica."""
    page: bool = True
    """Whether the static page at "/" and its files under "/page/" are open."""


def _untold(report: Mapping[str, Any]) -> None:
    """Nobody counts."""


class Guard:
    """ASGI middleware.

    Args:
        app: What is behind it; sees `key` and `request_id` in `scope["state"]`.
        keyring: The keys that are known.
        told: Hears of every request when it has ended (`Exchange.report`).
    """

    def __init__(
        self,
        app: App,
        config: GuardConfig,
        keyring: Keyring,
        told: Callable[[Mapping[str, Any]], None] = _untold,
    ) -> None:
        self._app, self._config, self._keyring, self._told = app, config, keyring, told
        self._turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._close(scope, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _close(self, scope: Scope, send: Send) -> None:
        exchange = Exchange(scope, send, is_page=False)
        exchange.code, exchange.status = "no_websockets", 403
        try:
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        finally:
            self._tell(exchange)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, send, self._config.page and is_page(scope))
        try:
            self._admit(exchange, receive)
            await self._app(exchange.scope, exchange.receive, exchange.send)
            if not exchange.has_ended():
                raise RuntimeError("the app returned before its answer was whole")
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except Exception as error:  # noqa: BLE001 - the border: whatever it is, no word of it is said
            if not exchange.is_cut():
                # Its text may quote the request, so neither text nor traceback.
                name = type(error).__name__
                logger.error("request %s: internal error (%s)", exchange.request_id, name)
            await exchange.refuse(Refusal(500, "internal_error", "Something went wrong here."))
        finally:
            exchange.leave()
            self._tell(exchange)

    def _admit(self, exchange: Exchange, receive: Receive) -> None:
        config, scope = self._config, exchange.scope
        key = None if is_open(scope, config.page) else self._known(scope["headers"])
        exchange.scope["state"]["key"] = exchange.key = key.name if key else ""
        refuse_long_head(scope, config.max_header_kib << 10)
        max_bytes = config.max_body_mib << 20
        declared = declared_length(scope["headers"], max_bytes)
        exchange.body = Body(receive, declared, max_bytes, config.body_limit_s)
        if key:
            exchange.leave = self._turnstile.enter(
                key.name,
                key.requests_per_minute or config.requests_per_minute,
                key.concurrent or config.concurrent,
            )

    def _known(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        if self._config.open_to_all:
            return ANYONE
        key = self._keyring.find(_bearer(values(headers, b"authorization")))
        if key is None:
            told = "Send an API key that is known here: Authorization: Bearer KEY."
            raise Refusal(401, "invalid_api_key", told)
        return key

    def _tell(self, exchange: Exchange) -> None:
        report = exchange.report()
        self._told(report)
        access.info(json.dumps(report))


def is_page(scope: Scope) -> bool:
    """Whether the path is the static page's or one of its files'."""
    path = scope["path"]
    return path == "/" or (PAGE_FILE.fullmatch(path) is not None and ".." not in path)


def is_open(scope: Scope, page: bool) -> bool:
    """Whether no key is asked for: only what is listed, spelt as it is listed."""
    path = scope["path"]
    if scope["method"] not in ("GET", "HEAD") or scope.get("root_path"):
        return False  # a router cuts root_path off: it would see another path than we do
    if scope.get("raw_path") not in (None, path.encode("utf-8", "surrogatepass")):
        return False  # something was percent-encoded
    return path in HEALTH or (page and is_page(scope))


def _bearer(authorizations: list[bytes]) -> str:
    """The secret of the only Authorization header; empty for any other scheme or number."""
    if len(authorizations) != 1:
        return ""
    scheme, _, secret = authorizations[0].partition(b" ")
    return secret.strip(b" ").decode("latin-1") if scheme.lower() == b"bearer" else ""
