"""Cross-origin requests: which origins' pages may send requests and read answers.

Keys travel in a header and never in a cookie, so no answer allows credentials.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_HEADERS = b"authorization, content-type, x-request-id"
_EXPOSED = b"x-request-id, retry-after, x-overloaded"
_METHODS = b"GET, HEAD, POST"
_MAX_AGE_S = b"600"


def find_allowed_origin(scope: Mapping[str, Any], allowed: Iterable[str]) -> bytes:
    """Find the origin of a request if its pages may read the answer; else empty."""
    origins = [value for name, value in scope["headers"] if name.lower() == b"origin"]
    if len(origins) != 1:
        return b""
    known = {origin.rstrip("/").encode() for origin in allowed}
    return origins[0] if origins[0] in known or b"*" in known else b""


def build_preflight_headers(scope: Mapping[str, Any], origin: bytes) -> list[tuple[bytes, bytes]]:
    """Build the answer to a browser's question whether it may send a request; empty if the request
    is no such question, or its origin is not allowed. The question carries no key."""
    names = {name.lower() for name, _ in scope["headers"]}
    if not origin or scope["method"] != "OPTIONS" or b"access-control-request-method" not in names:
        return []
    return [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _HEADERS),
        (b"access-control-max-age", _MAX_AGE_S),
        (b"content-length", b"0"),
    ]


def build_origin_headers(origin: bytes) -> dict[bytes, bytes]:
    """Build the headers that let the pages of an origin read an answer."""
    return {
        b"access-control-allow-origin": origin,
        b"access-control-expose-headers": _EXPOSED,
        b"vary": b"origin",
    }
