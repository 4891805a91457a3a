"""One request and its answer, as the server sees them. Makes sure that one answer is sent, once.

Decides how an answer looks from outside (request id, security headers, a body that is refused while
it is read), and knows nothing of keys and permissions.
"""

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from serve.front.cors import build_origin_headers
from serve.front.limits import Body, find_header_values
from serve.front.refusals import Refusal

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499
"""Status in the log for a request whose client disconnected before the answer began."""

_CLOSED_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Exchange:
    """Gives the app its `scope`, `receive` and `send` in place of the server's own.

    Attributes:
        key: Name of the API key; empty without one.
        code: Code of the refusal; empty if the app answered.
        status: HTTP status that was sent; 499 if the client left before the answer began.
        body: The request's body. It is None, and cannot be read, until the request is admitted.
        release: Frees the place that the request takes within the key's limits.
        allowed_origin: Origin whose pages may read the answer; empty: none but its own.
        more_headers: Headers that the answer gets besides, with names in lower case.
    """

    def __init__(self, scope: Scope, send: Send, is_page: bool) -> None:
        given = find_header_values(scope["headers"], b"x-request-id")
        is_given = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
        self.request_id = given[0].decode() if is_given else uuid.uuid4().hex
        state = {**(scope.get("state") or {}), "request_id": self.request_id}
        self.scope = {**scope, "state": state}
        self.key, self.code, self.status = "", "", _CLIENT_LEFT
        self.body: Body | None = None
        self.release: Callable[[], object] = lambda: None
        self.allowed_origin = b""
        self.more_headers: dict[str, str] = {}
        self._send, self._is_page, self._since = send, is_page, time.monotonic()
        self._at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._refused: Refusal | None = None
        self._is_started = self._is_over = self._is_gone = False

    def has_ended(self) -> bool:
        """Whether nothing is left to send: the answer is complete, or nobody waits for it."""
        return self._is_over or self.is_aborted()

    def is_aborted(self) -> bool:
        """Whether the body was refused or the client left, so that an error of the app is to be
        expected."""
        return self._refused is not None or self._is_gone

    async def receive(self) -> Message:
        """Receive the app's next message. If the body must be refused, send that answer at once.

        Raises:
            Refusal: 400, 408 or 413; it has already been sent to the client.
        """
        if self._refused is not None:
            raise self._refused
        assert self.body is not None, "a request is admitted before it is read"
        try:
            message = await self.body.read()
        except Refusal as refusal:
            # The app is not left to answer: FastAPI turns what is raised here into its own 400.
            self._refused, self.code = refusal, refusal.code
            await self.refuse(refusal)
            raise
        if message["type"] == "http.disconnect":
            self._is_gone = not self._is_over
            self.release()
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the app, with this module's headers added.

        Raises:
            Refusal: The body was refused earlier and the client has that answer already.
        """
        if self._refused is not None:
            raise self._refused
        if message["type"] == "http.response.start":
            self._is_started, self.status = True, message["status"]
            message = {**message, "headers": self._add_headers(message.get("headers", ()))}
        else:
            self._is_over = not message.get("more_body", False)
        await self._send(message)
        if self._is_over:
            self.release()

    async def refuse(self, refusal: Refusal, keep_open: bool = False) -> None:
        """Answer in place of the app. Does nothing if an answer has begun: the server then cuts the
        connection, so that the answer does not look complete.

        Args:
            keep_open: Leave the connection open although the body was not read; the server drains
                the unread body.
        """
        if self._is_started or self._is_gone:
            return
        self._is_started = self._is_over = True
        self.code, self.status = refusal.code, refusal.status
        body = refusal.body()
        headers = [(name.encode(), value.encode()) for name, value in refusal.headers().items()]
        headers.append((b"content-length", str(len(body)).encode()))
        if self._has_unread_body() and not keep_open:
            # Otherwise the server waits for the rest of the body.
            headers.append((b"connection", b"close"))
        headers = self._add_headers(headers)
        start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
        await self._send(start)
        sent_body = b"" if self.scope["method"] == "HEAD" else body
        await self._send({"type": "http.response.body", "body": sent_body})

    def _has_unread_body(self) -> bool:
        headers = self.scope["headers"]
        has_body = any(
            find_header_values(headers, name) for name in (b"content-length", b"transfer-encoding")
        )
        return has_body and not (self.body is not None and self.body.is_whole)

    def _add_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        ours = {
            b"x-request-id": self.request_id.encode(),
            b"x-content-type-options": b"nosniff",
            b"referrer-policy": b"no-referrer",
            b"content-security-policy": _PAGE_POLICY if self._is_page else _CLOSED_POLICY,
        }
        if not self._is_page:
            ours[b"cache-control"] = b"no-store"
        ours |= {name.encode(): value.encode() for name, value in self.more_headers.items()}
        theirs = [(name, value) for name, value in headers if name.lower() not in ours]
        if self.allowed_origin:
            ours |= build_origin_headers(self.allowed_origin)
        # No page of another origin may read an answer, whatever the app allows.
        is_preflight = self.allowed_origin and self.scope["method"] == "OPTIONS"
        prefix = b"access-control-allow-origin" if is_preflight else b"access-control-"
        closed = [pair for pair in theirs if not pair[0].lower().startswith(prefix)]
        return [*closed, *ours.items()]

    def build_report(self) -> dict[str, str | int]:
        """Build the request's line of the access log, without headers, bodies or query."""
        return {
            "at": self._at,
            "request_id": self.request_id,
            "method": _make_printable(self.scope.get("method", "WEBSOCKET")),
            "path": _make_printable(self.scope["path"]),
            "status": self.status,
            "code": self.code,
            "key": self.key,
            "bytes_in": self.body.received_bytes if self.body else 0,
            "ms": round(1000 * (time.monotonic() - self._since)),
        }


def _make_printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:100])
