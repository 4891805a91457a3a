"""What one request may weigh, and how many of them a key may have: numbers in, a Refusal out.

Knows nothing of keys' secrets, of paths or of answers.
"""

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from serve.front.refusals import Refusal

LENGTH = re.compile(rb"[0-9]{1,18}")
FRAMING = 4
"""Bytes of a header line beside name and value: colon, space, CR, LF."""


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of the header `name`, which is in lower case."""
    return [value for key, value in headers if key.lower() == name]


def refuse_long_head(scope: dict[str, Any], max_bytes: int) -> None:
    """Request line and headers together.

    Raises:
        Refusal: 431.
    """
    size = len(scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass"))
    size += len(scope.get("query_string", b""))
    size += sum(len(name) + len(value) + FRAMING for name, value in scope["headers"])
    if size > max_bytes:
        raise Refusal(431, "headers_too_large", f"Headers may have {max_bytes >> 10} KiB in all.")


def declared_length(headers: Iterable[tuple[bytes, bytes]], max_bytes: int) -> int | None:
    """Bytes of body that the headers promise; None: it ends where it ends.

    Raises:
        Refusal: 400, the promise has two meanings or none; 413, it is too much.
    """
    lengths, codings = values(headers, b"content-length"), values(headers, b"transfer-encoding")
    if lengths and codings:
        # Where two parsers differ on which one counts, a second request hides in the body.
        raise Refusal(400, "ambiguous_length", "Send Content-Length or Transfer-Encoding.")
    if codings:
        if len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise Refusal(400, "unknown_transfer_encoding", "Transfer-Encoding may be chunked.")
        return None
    if not lengths:
        return None
    if len(lengths) > 1 or not LENGTH.fullmatch(lengths[0]):
        raise Refusal(400, "invalid_content_length", "Content-Length must be one whole number.")
    if int(lengths[0]) > max_bytes:
        raise _too_large(max_bytes)
    return int(lengths[0])


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, "body_too_large", f"The body may have {max_bytes >> 20} MiB.")


class Body:
    """Reads a request's messages, counting and never keeping; time is counted while waiting.

    Attributes:
        seen: Bytes so far.
        left_s: Seconds that the client may still keep us waiting for the rest.
        is_whole: Its last byte has come.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[dict[str, Any]]],
        declared: int | None,
        max_bytes: int,
        limit_s: float,
    ) -> None:
        self._receive, self._declared, self._max_bytes = receive, declared, max_bytes
        self._limit_s = limit_s
        self.seen, self.left_s, self.is_whole = 0, limit_s, False

    async def read(self) -> dict[str, Any]:
        """The next message.

        Raises:
            Refusal: 400, the length is not as declared; 408, too slow; 413, too much.
        """
        if self.is_whole:
            return await self._receive()  # what comes now is the disconnect, whenever it comes
        message = await self._in_time()
        if message["type"] == "http.request":
            self.seen += len(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)
            self._refuse_wrong_length()
        return message

    async def _in_time(self) -> dict[str, Any]:
        since = time.monotonic()
        try:
            async with asyncio.timeout(self.left_s):
                return await self._receive()
        except TimeoutError:
            told = f"The whole body must come within {self._limit_s:g} seconds."
            raise Refusal(408, "body_too_slow", told) from None
        finally:
            self.left_s = max(0.0, self.left_s - (time.monotonic() - since))

    def _refuse_wrong_length(self) -> None:
        if self.seen > self._max_bytes:
            raise _too_large(self._max_bytes)
        if self._declared is None:
            return
        if self.seen > self._declared or (self.is_whole and self.seen < self._declared):
            told = "The body is not as long as Content-Length says."
            raise Refusal(400, "wrong_content_length", told)


class Turnstile:
    """Lets requests in, by key: so many a minute, so many at once. A full bucket is a minute's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens, and when they were counted, by key."""
        self._inside: Counter[str] = Counter()

    def inside(self, name: str) -> int:
        """Requests of the key that are running."""
        return self._inside[name]

    def enter(self, name: str, requests_per_minute: int, concurrent: int) -> Callable[[], None]:
        """Lets one request in; call what comes back when it has ended, oftener does no harm.

        Raises:
            Refusal: 429, and when to come again.
        """
        self._take_token(name, requests_per_minute)
        if self._inside[name] >= concurrent:
            told = f"This key may have {concurrent} requests at a time."
            raise Refusal(429, "too_many_at_once", told, retry_after_s=1)
        self._inside[name] += 1
        outside: list[bool] = []

        def leave() -> None:
            if not outside:
                outside.append(True)
                self._inside[name] -= 1

        return leave

    def _take_token(self, name: str, requests_per_minute: int) -> None:
        rate, now = requests_per_minute / 60, self._clock()
        tokens, then = self._buckets.get(name, (float(requests_per_minute), now))
        tokens = min(float(requests_per_minute), tokens + (now - then) * rate)
        if tokens < 1:
            self._buckets[name] = tokens, now
            told = f"This key may have {requests_per_minute} requests a minute."
            raise Refusal(429, "rate_limited", told, retry_after_s=math.ceil((1 - tokens) / rate))
        self._buckets[name] = tokens - 1, now
