"""One request and its answer: what came in, what goes out, and that it goes out once.

Decides how an answer looks from outside (ids, security headers, a body that is refused half-way),
and refuses to know who asks and whether they may.
"""

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from serve.front.limits import Body, values
from serve.front.refusals import Refusal

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
GONE = 499
"""Status in the log of a request whose client left before the answer began."""

NOTHING = b"default-src 'none'; frame-ancestors 'none'"
PAGE_ONLY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Exchange:
    """What the app gets in place of the server's own `scope`, `receive` and `send`.

    Attributes:
        key: Name of the key; empty without one.
        code: Of the refusal; empty if the app answered.
        status: That went out, or GONE.
        body: Set once the request is admitted; it cannot be read before.
        leave: Gives the request's slot back.
    """

    def __init__(self, scope: Scope, send: Send, is_page: bool) -> None:
        given = values(scope["headers"], b"x-request-id")
        is_given = len(given) == 1 and REQUEST_ID.fullmatch(given[0])
        self.request_id = given[0].decode() if is_given else uuid.uuid4().hex
        state = {**(scope.get("state") or {}), "request_id": self.request_id}
        self.scope = {**scope, "state": state}
        self.key, self.code, self.status = "", "", GONE
        self.body: Body | None = None
        self.leave: Callable[[], None] = lambda: None
        self._send, self._is_page, self._since = send, is_page, time.monotonic()
        self._refused: Refusal | None = None
        self._is_started = self._is_over = self._is_gone = False

    def has_ended(self) -> bool:
        """Whether nothing is left to say: all was said, or nobody listens."""
        return self._is_over or self.is_cut()

    def is_cut(self) -> bool:
        """Whether the body was refused or the client left: the app cannot but stumble."""
        return self._refused is not None or self._is_gone

    async def receive(self) -> Message:
        """The app's next message; a body that is refused is answered here and now.

        Raises:
            Refusal: 400, 408 or 413; answered already.
        """
        if self._refused is not None:
            raise self._refused
        assert self.body is not None, "a request is admitted before it is read"
        try:
            message = await self.body.read()
        except Refusal as refusal:
            # Not left to the app: FastAPI turns what is raised here into a 400 of its own.
            self._refused, self.code = refusal, refusal.code
            await self.refuse(refusal)
            raise
        if message["type"] == "http.disconnect":
            self._is_gone = not self._is_over
            self.leave()
        return message

    async def send(self, message: Message) -> None:
        """The app's words, with our headers; after its body was refused it has none.

        Raises:
            Refusal: that of the body, which has been answered already.
        """
        if self._refused is not None:
            raise self._refused
        if message["type"] == "http.response.start":
            self._is_started, self.status = True, message["status"]
            message = {**message, "headers": self._with_ours(message.get("headers", ()))}
        else:
            self._is_over = not message.get("more_body", False)
        await self._send(message)
        if self._is_over:
            self.leave()

    async def refuse(self, refusal: Refusal, keeps: bool = False) -> None:
        """Answers in place of the app, unless it has begun; the server cuts a begun answer off.

        Args:
            keeps: The connection, though its body was not read: the server will, and forget it.
        """
        if self._is_started or self._is_gone:
            return
        self._is_started = self._is_over = True
        self.code, self.status = refusal.code, refusal.status
        body = refusal.body()
        headers = [(name.encode(), value.encode()) for name, value in refusal.headers().items()]
        headers.append((b"content-length", str(len(body)).encode()))
        if self._is_unread() and not keeps:
            headers.append((b"connection", b"close"))  # else the server reads the rest, and waits
        headers = self._with_ours(headers)
        start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
        await self._send(start)
        said = b"" if self.scope["method"] == "HEAD" else body
        await self._send({"type": "http.response.body", "body": said})

    def _is_unread(self) -> bool:
        headers = self.scope["headers"]
        has_body = values(headers, b"content-length") + values(headers, b"transfer-encoding")
        return bool(has_body) and not (self.body is not None and self.body.is_whole)

    def _with_ours(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        ours = {
            b"x-request-id": self.request_id.encode(),
            b"x-content-type-options": b"nosniff",
            b"referrer-policy": b"no-referrer",
            b"content-security-policy": PAGE_ONLY if self._is_page else NOTHING,
        }
        if not self._is_page:
            ours[b"cache-control"] = b"no-store"
        theirs = [(name, value) for name, value in headers if name.lower() not in ours]
        # No page of another origin may read an answer, whatever the app allows.
        closed = [pair for pair in theirs if not pair[0].lower().startswith(b"access-control-")]
        return [*closed, *ours.items()]

    def report(self) -> dict[str, str | int]:
        """A line of the access log: neither headers nor bodies nor query."""
        return {
            "request_id": self.request_id,
            "method": _printable(self.scope.get("method", "WEBSOCKET")),
            "path": _printable(self.scope["path"]),
            "status": self.status,
            "code": self.code,
            "key": self.key,
            "bytes_in": self.body.seen if self.body else 0,
            "ms": round(1000 * (time.monotonic() - self._since)),
        }


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:100])
