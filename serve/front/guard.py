"""The outermost layer of the endpoints: API keys, limits on sizes and rates, and the access log.

Pure ASGI and closed by default. It reads `scope["path"]` as given, never a URL built from the Host
header, and knows nothing of the routes behind it.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from pydantic import Field

from s4v_core.config import Config
from serve.front.cors import build_preflight_headers, find_allowed_origin
from serve.front.exchange import App, Exchange, Receive, Scope, Send
from serve.front.limits import (
    Body,
    Capacity,
    KeyLimiter,
    find_header_values,
    read_declared_length,
    refuse_long_head,
)
from serve.front.logs import ACCESS
from serve.front.proxy_errors import HEALTH_PATHS
from serve.front.refusals import Refusal
from serve.keys import Key, Keyring

logger = logging.getLogger(__name__)
_access_log = logging.getLogger(ACCESS)

_PAGE_FILE = re.compile(r"/page/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
_ANYONE = Key("anyone", b"")
"""The key whose limits apply to every request when no key is needed."""
_CURRENT: ContextVar[Key] = ContextVar("key", default=_ANYONE)


def find_current_key() -> Key:
    """Find the key of the request that is being answered, in whatever task of its."""
    return _CURRENT.get()


class GuardConfig(Config):
    """API keys, request rates and request sizes."""

    keys_file: str = ""
    """File of API keys (`python -m serve.keys` makes one). Empty: no key is known, and everything
    except the health checks and the page is refused."""
    open_to_all: bool = False
    """Accept requests without a key. Use it only behind another gateway that checks access."""
    max_body_mib: int = Field(25, ge=1)
    """Largest body of a request, in MiB."""
    max_header_kib: int = Field(32, ge=1)
    """Largest request line and headers together, in KiB."""
    body_limit_s: float = Field(15.0, gt=0, allow_inf_nan=False)
    """Seconds that may be spent in total waiting for the body of a request."""
    requests_per_minute: int = Field(600, ge=1)
    """Requests per minute for keys without a limit of their own; counted per ingress replica."""
    concurrent: int = Field(64, ge=1)
    """Requests at a time for keys without a limit of their own; counted per ingress replica."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may send requests and read answers, such as https://app.example.com; "*"
    allows all. Without one, browsers keep every other origin out."""
    page: bool = True
    """Serve the static page at "/" and its files under "/page/" without a key."""


class GuardRules:
    """The guard's configuration, which can be replaced while the guard works.

    Attributes:
        config: The configuration that holds from the next request on.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config


def _ignore_report(report: Mapping[str, Any]) -> None:
    pass


class Guard:
    """ASGI middleware that admits or refuses every request.

    Args:
        app: The app behind it; it finds `key` and `request_id` in `scope["state"]`.
        config: Limits, and what is open without a key.
        keyring: The known keys.
        capacity: Requests that may be generating at a time; None: any number.
        on_end: Called with the report (`Exchange.build_report`) of every request that has ended.
    """

    def __init__(
        self,
        app: App,
        config: GuardConfig | GuardRules,
        keyring: Keyring,
        on_end: Callable[[Mapping[str, Any]], None] = _ignore_report,
        capacity: int | None = None,
    ) -> None:
        self._app, self._keyring, self._on_end = app, keyring, on_end
        self._rules = config if isinstance(config, GuardRules) else GuardRules(config)
        self._limiter, self._capacity = KeyLimiter(), Capacity(capacity)

    @property
    def _config(self) -> GuardConfig:
        return self._rules.config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._refuse_websocket(scope, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _refuse_websocket(self, scope: Scope, send: Send) -> None:
        exchange = Exchange(scope, send, is_page=False)
        exchange.code, exchange.status = "no_websockets", 403
        try:
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        finally:
            self._report_end(exchange)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, send, self._config.page and _is_page_path(scope))
        exchange.allowed_origin = find_allowed_origin(scope, self._config.cors_origins)
        if preflight := build_preflight_headers(scope, exchange.allowed_origin):
            await _answer_preflight(exchange, preflight)
            self._report_end(exchange)
            return
        try:
            self._admit(exchange, receive)
            await self._app(exchange.scope, exchange.receive, exchange.send)
            if not exchange.has_ended():
                raise RuntimeError("the app returned before its answer was whole")
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except Exception as error:  # noqa: BLE001 - the border: no text of any error gets out
            if not exchange.is_aborted():
                # The error's text may quote the request, so neither text nor traceback is logged.
                name = type(error).__name__
                logger.error("request %s: internal error (%s)", exchange.request_id, name)
            await exchange.refuse(Refusal(500, "internal_error", "Something went wrong here."))
        finally:
            exchange.release()
            self._report_end(exchange)

    def _admit(self, exchange: Exchange, receive: Receive) -> None:
        config, scope = self._config, exchange.scope
        key = None if _is_open(scope, config.page) else self._find_key(scope["headers"])
        exchange.scope["state"]["key"] = exchange.key = key.name if key else ""
        _CURRENT.set(key or _ANYONE)
        refuse_long_head(scope, config.max_header_kib << 10)
        max_bytes = config.max_body_mib << 20
        declared = read_declared_length(scope["headers"], max_bytes)
        exchange.body = Body(receive, declared, max_bytes, config.body_limit_s)
        if key:
            rate = key.requests_per_minute or config.requests_per_minute
            release_place = self._capacity.admit(scope["method"])
            try:
                release_key = self._limiter.admit(
                    key.name, rate, key.concurrent or config.concurrent
                )
            except Refusal:
                release_place()
                raise
            finally:
                exchange.more_headers = self._limiter.build_headers(key.name, rate)
            exchange.release = lambda: (release_key(), release_place())

    def _find_key(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        if self._config.open_to_all:
            return _ANYONE
        key = self._keyring.find(_read_secret(find_header_values(headers, b"authorization")))
        if key is None:
            message = "Send an API key that is known here: Authorization: Bearer KEY."
            raise Refusal(401, "invalid_api_key", message)
        if key.has_expired():
            raise Refusal(401, "expired_api_key", "This API key has expired; ask for a new one.")
        return key

    def _report_end(self, exchange: Exchange) -> None:
        report = exchange.build_report()
        self._on_end(report)
        _access_log.info(json.dumps(report))


async def _answer_preflight(exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
    start = {"type": "http.response.start", "status": 204, "headers": headers}
    await exchange.send(start)
    await exchange.send({"type": "http.response.body", "body": b""})


def _is_page_path(scope: Scope) -> bool:
    """Whether the path is the static page or one of its files."""
    path = scope["path"]
    return path == "/" or (_PAGE_FILE.fullmatch(path) is not None and ".." not in path)


def _is_open(scope: Scope, page: bool) -> bool:
    """Whether the request needs no key. Only listed paths are open, in exactly this spelling."""
    path = scope["path"]
    if scope["method"] not in ("GET", "HEAD") or scope.get("root_path"):
        return False  # a router removes root_path, and would see another path than this check
    if scope.get("raw_path") not in (None, path.encode("utf-8", "surrogatepass")):
        return False  # something was percent-encoded
    return path in HEALTH_PATHS or (page and _is_page_path(scope))


def _read_secret(authorizations: list[bytes]) -> str:
    """Read the secret from the Authorization headers. Empty unless there is exactly one, of scheme
    Bearer."""
    if len(authorizations) != 1:
        return ""
    scheme, _, secret = authorizations[0].partition(b" ")
    return secret.strip(b" ").decode("latin-1") if scheme.lower() == b"bearer" else ""
