"""Refused requests: fixed codes and sentences, in the shape of OpenAI's errors.

They never contain the text of an exception, an address, a path or a host name.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    500: "server_error",
    503: "overloaded_error",
    504: "engine_timeout_error",
}
"""OpenAI's `type` of an error by status; every other status is an invalid_request_error."""


_OVERLOADED = "overloaded"
OVERLOADED_HEADER = "x-overloaded"
"""Header that marks a 429 as caused by busy engines. A 429 without it means that the key has
reached its own limit."""
RETRY_AFTER_S = 2.0

_LONGEST_PLACE, _LONGEST_MESSAGE = 80, 160
"""Most characters of what a client may have named, and of a sentence about it."""


class Refusal(Exception):
    """Ends a request with an HTTP error status.

    Attributes:
        status: HTTP status, 4xx or 5xx.
        code: One fixed word in snake_case, for programs.
        message: One sentence for people; fixed, except for numbers and names that the client sent.
        retry_after_s: Seconds after which the same request may succeed (429, 503).
        param: The part of the request that is wrong, as in `messages[0].content`; None if it is no
            single one.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(status, code, message, retry_after_s, param)
        self.status, self.code, self.message = status, code, message
        self.retry_after_s, self.param = retry_after_s, param

    def body(self) -> bytes:
        """Write the body of the answer: OpenAI's error object as JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        """Build the headers of the answer, with names in lower case."""
        headers = {"content-type": "application/json"}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.code == _OVERLOADED:
            headers[OVERLOADED_HEADER] = "1"
        return headers


def make_overload_refusal() -> Refusal:
    """Make the refusal of a request that no engine has room for now."""
    message = "All engines are busy and their queue is full."
    return Refusal(429, _OVERLOADED, message, RETRY_AFTER_S)


def make_invalid_body_refusal(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """Make a refusal from the first of pydantic's errors, without the value that was found."""
    if errors[0]["type"] == "json_invalid":  # its place is a position in the text
        return Refusal(400, "bad_request", "body: The text is no valid JSON.")
    place = write_place(part for part in errors[0]["loc"] if part != "body")
    message = f"{place or 'body'}: {errors[0]['msg'][:_LONGEST_MESSAGE].rstrip('.')}."
    return Refusal(400, "bad_request", message, param=place or None)


def write_place(parts: Iterable[str | int]) -> str:
    """Write the place of a value as OpenAI does, as in `messages[0].content[1].type`.

    Args:
        parts: Names and positions from the outside in. Names in parentheses are left out: they tell
            alternatives of one value apart.
    """
    place = ""
    for part in parts:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not part.startswith("("):
            place += f".{part}" if place else part
    return place[:_LONGEST_PLACE]
