"""Limits on the size of one request and on the requests of one key. Raises a Refusal when exceeded.

Knows nothing of the keys' secrets, of paths or of answers.
"""

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from serve.front.refusals import Refusal, make_overload_refusal

_LENGTH = re.compile(rb"[0-9]{1,18}")
_HEADER_LINE_OVERHEAD = 4
"""Bytes of a header line besides name and value: colon, space, CR, LF."""


def find_header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Find every value of the header `name`, which must be in lower case."""
    return [value for key, value in headers if key.lower() == name]


def refuse_long_head(scope: dict[str, Any], max_bytes: int) -> None:
    """Refuse a request whose request line and headers together exceed `max_bytes`.

    Raises:
        Refusal: 431, they are too long.
    """
    size = len(scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass"))
    size += len(scope.get("query_string", b""))
    size += sum(len(name) + len(value) + _HEADER_LINE_OVERHEAD for name, value in scope["headers"])
    if size > max_bytes:
        raise Refusal(431, "headers_too_large", f"Headers may have {max_bytes >> 10} KiB in all.")


def read_declared_length(headers: Iterable[tuple[bytes, bytes]], max_bytes: int) -> int | None:
    """Read the length of the body in bytes from the headers. None if they declare no length.

    Raises:
        Refusal: 400, the declaration is ambiguous or malformed; 413, the body is too large.
    """
    lengths = find_header_values(headers, b"content-length")
    codings = find_header_values(headers, b"transfer-encoding")
    if lengths and codings:
        # If two parsers disagree on which one counts, a second request can hide in the body.
        raise Refusal(400, "ambiguous_length", "Send Content-Length or Transfer-Encoding.")
    if codings:
        if len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise Refusal(400, "unknown_transfer_encoding", "Transfer-Encoding may be chunked.")
        return None
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Refusal(400, "invalid_content_length", "Content-Length must be one whole number.")
    if int(lengths[0]) > max_bytes:
        raise _make_too_large_refusal(max_bytes)
    return int(lengths[0])


def _make_too_large_refusal(max_bytes: int) -> Refusal:
    return Refusal(413, "body_too_large", f"The body may have {max_bytes >> 20} MiB.")


class Body:
    """Reads the messages of a request's body and counts their bytes, without storing them. Only the
    time spent waiting for the client counts towards the time limit.

    Attributes:
        received_bytes: Bytes received so far.
        left_s: Seconds that may still be spent waiting for the rest.
        is_whole: Whether the last byte has arrived.
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
        self.received_bytes, self.left_s, self.is_whole = 0, limit_s, False

    async def read(self) -> dict[str, Any]:
        """Read the next message.

        Raises:
            Refusal: 400, the length is not as declared; 408, too slow; 413, too large.
        """
        if self.is_whole:
            # Only the disconnect is still to come, and it may come at any time: no time limit.
            return await self._receive()
        message = await self._receive_in_time()
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)
            self._refuse_wrong_length()
        return message

    async def _receive_in_time(self) -> dict[str, Any]:
        since = time.monotonic()
        try:
            async with asyncio.timeout(self.left_s):
                return await self._receive()
        except TimeoutError:
            message = f"The whole body must come within {self._limit_s:g} seconds."
            raise Refusal(408, "body_too_slow", message) from None
        finally:
            self.left_s = max(0.0, self.left_s - (time.monotonic() - since))

    def _refuse_wrong_length(self) -> None:
        received, declared = self.received_bytes, self._declared
        if received > self._max_bytes:
            raise _make_too_large_refusal(self._max_bytes)
        if declared is None:
            return
        if received > declared or (self.is_whole and received < declared):
            message = "The body is not as long as Content-Length says."
            raise Refusal(400, "wrong_content_length", message)


def _do_nothing() -> None:
    pass


class Capacity:
    """How many requests may be generating at a time, whatever their keys. Reading (GET, HEAD) is
    never refused, so that a busy node still lists its models."""

    def __init__(self, places: int | None) -> None:
        self._places, self._taken = places, 0

    def admit(self, method: str) -> Callable[[], None]:
        """Admit one request. Returns the function to call when the request has ended; calling it
        again has no effect.

        Raises:
            Refusal: 429, all places are taken.
        """
        if self._places is None or method != "POST":
            return _do_nothing
        if self._taken >= self._places:
            raise make_overload_refusal()
        self._taken += 1
        return _make_release(self._free)

    def _free(self) -> None:
        self._taken -= 1


def _make_release(free: Callable[[], None]) -> Callable[[], None]:
    """Wrap a function so that only its first call has an effect."""
    is_released = False

    def release() -> None:
        nonlocal is_released
        if not is_released:
            is_released = True
            free()

    return release


class KeyLimiter:
    """Limits the rate (a token bucket that holds one minute's requests) and the number of running
    requests of each key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Name of a key -> (tokens in its bucket, time at which they were counted)."""
        self._running: Counter[str] = Counter()

    def count_running(self, name: str) -> int:
        """Count the running requests of a key."""
        return self._running[name]

    def build_headers(self, name: str, requests_per_minute: int) -> dict[str, str]:
        """Build OpenAI's headers about what a key has left of its rate."""
        full = float(requests_per_minute)
        tokens, then = self._buckets.get(name, (full, self._clock()))
        tokens = min(full, tokens + (self._clock() - then) * full / 60)
        return {
            "x-ratelimit-limit-requests": str(requests_per_minute),
            "x-ratelimit-remaining-requests": str(int(tokens)),
            "x-ratelimit-reset-requests": f"{math.ceil((full - tokens) * 60 / full)}s",
        }

    def admit(self, name: str, requests_per_minute: int, concurrent: int) -> Callable[[], None]:
        """Admit one request. Returns the function to call when the request has ended; calling it
        again has no effect.

        Raises:
            Refusal: 429, with the time after which to try again.
        """
        self._take_token(name, requests_per_minute)
        if self._running[name] >= concurrent:
            message = f"This key may have {concurrent} requests at a time."
            raise Refusal(429, "too_many_at_once", message, retry_after_s=1)
        self._running[name] += 1

        def free() -> None:
            self._running[name] -= 1

        return _make_release(free)

    def _take_token(self, name: str, requests_per_minute: int) -> None:
        rate, now = requests_per_minute / 60, self._clock()
        tokens, then = self._buckets.get(name, (float(requests_per_minute), now))
        tokens = min(float(requests_per_minute), tokens + (now - then) * rate)
        if tokens < 1:
            self._buckets[name] = tokens, now
            message = f"This key may have {requests_per_minute} requests a minute."
            wait_s = math.ceil((1 - tokens) / rate)
            raise Refusal(429, "rate_limited", message, retry_after_s=wait_s)
        self._buckets[name] = tokens - 1, now
