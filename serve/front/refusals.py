"""Requests that are not answered: fixed codes and sentences, in the shape of OpenAI's errors.

No exception's text, address, path or host name ever goes into one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

TYPES = {
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
}
"""OpenAI's `type` by status; every other one is an invalid_request_error."""


OVERLOADED = "overloaded"
BUSY = "x-overloaded"
"""Header of an answer that engines have no room for: not the key's own limit."""
RETRY_AFTER_S = 2.0


class Refusal(Exception):
    """Ends a request with an HTTP status.

    Attributes:
        status: HTTP status, 4xx or 5xx.
        code: One word for programs, snake_case; fixed.
        message: One sentence for people; fixed but for numbers and names that the client sent.
        retry_after_s: Seconds after which the same request may work (429, 503).
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(status, code, message, retry_after_s)
        self.status, self.code, self.message = status, code, message
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """OpenAI's error object as JSON."""
        kind = TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        """Those that belong to it, names in lower case."""
        found = {"content-type": "application/json"}
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.retry_after_s is not None:
            found["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.code == OVERLOADED:
            found[BUSY] = "1"
        return found


def overloaded() -> Refusal:
    """What is told to whom no engine can serve now."""
    told = "All engines are busy and their queue is full."
    return Refusal(429, OVERLOADED, told, RETRY_AFTER_S)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The first of pydantic's errors about a body, without the value that it found."""
    place = ".".join(str(part) for part in errors[0]["loc"] if part != "body")[:80]
    return Refusal(400, "bad_request", f"{place or 'body'}: {errors[0]['msg'][:120]}.")
