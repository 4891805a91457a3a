"""Hooks of schemathesis for this interface; schemathesis loads them, not the tests."""

import json
from typing import Any

import schemathesis

MALFORMED = "bad_request"
"""Error code of requests that violate the OpenAPI document. Other codes stand for errors that the
document cannot express: bytes that are no image, turns out of order, a text that is too long."""


@schemathesis.check
def well_formed_is_not_called_malformed(_: Any, response: Any, case: Any) -> None:
    if not case.meta or not case.meta.generation.mode.is_positive or response.status_code < 400:
        return
    assert 400 <= response.status_code < 500, response.status_code
    assert response.json()["error"]["code"] != MALFORMED, response.text


@schemathesis.deserializer("application/x-ndjson")
def first_line(_: Any, response: Any) -> Any:
    return json.loads(response.content.splitlines()[0])
