"""Limits on connections in front of Ray Serve's proxy: the size of a request's head, the time that
it may take, and the number of connections.

Serve passes none of uvicorn's limits on, and httptools, the parser that uvicorn prefers, has none:
one endless header keeps the proxy busy until it misses its health checks and is killed. So the
proxy takes a protocol of this module, which `shedding.middlewares` sets as uvicorn's choice.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.front.refusals import Refusal

MAX_HEAD_BYTES = 64 << 10
"""Longest request line and headers together. The guard behind the proxy allows less, so that it is
the guard whose answer clients see as a rule."""

HEAD_LIMIT_S = 15.0
"""Seconds in which a head must be complete. A connection that says nothing at all for so long is
closed, too."""

MAX_CONNECTIONS = 16_000
"""Open connections of a proxy; further ones are closed at once. Nodes allow 65,536 open files."""


_READ_BYTES = 256 << 10
"""Most bytes that asyncio or uvloop hand over at a time; content may begin at their end."""


def install_door() -> None:
    """Make uvicorn take `DoorProtocol` in this process, for servers that start later."""
    auto.AutoHTTPProtocol = DoorProtocol


class DoorProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on heads and connections."""

    head_limit_s = HEAD_LIMIT_S
    max_connections = MAX_CONNECTIONS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_in_head, self._has_begun, self._room = True, False, MAX_HEAD_BYTES
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        while data and self._is_open():
            if not self._is_in_head:
                self._receive_body(data)
                return
            # Never more than the head may have: what the parser gets, it keeps.
            part, data = data[: self._room], data[self._room :]
            self._has_begun, self._room = True, self._room - len(part)
            super().data_received(part)
            if self._is_in_head and self._room <= 0 and self._is_open():
                message = f"Headers may have {MAX_HEAD_BYTES >> 10} KiB in all."
                self._refuse(Refusal(431, "headers_too_large", message))

    def _receive_body(self, data: bytes) -> None:
        """Pass on a part of a body. What of it is no content, such as trailers after the last
        chunk, may be as long as a head."""
        self._room -= len(data)
        super().data_received(data)
        if self._room <= 0 and self._is_open():
            self.transport.abort()  # an answer may have begun

    def on_body(self, body: bytes) -> None:
        self._room = MAX_HEAD_BYTES + _READ_BYTES
        super().on_body(body)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        self._is_in_head, self._room = False, MAX_HEAD_BYTES + _READ_BYTES
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head, self._has_begun, self._room = True, False, MAX_HEAD_BYTES

    def _is_open(self) -> bool:
        """Whether this protocol still reads the connection, which a WebSocket's takes over."""
        return not self.transport.is_closing() and self.transport.get_protocol() is self

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_limit_s, self._end_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow_head(self) -> None:
        self._head_timer = None
        if self._has_begun:
            message = f"Request line and headers must come within {self.head_limit_s:g} seconds."
            self._refuse(Refusal(408, "head_too_slow", message))
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer and close. A client that reads nothing does not keep the connection open."""
        body = refusal.body()
        headers = refusal.headers() | {"content-length": f"{len(body)}", "connection": "close"}
        lines = [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", body]))
        self.transport.close()
        self.loop.call_later(1, self.transport.abort)
