"""What FastAPI cannot read off the routes for the OpenAPI document, so that it is true."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from serve.api.schemas import BatchLine, CaptionOptions, CaptionRequest


def _schema(body: type[BaseModel]) -> dict[str, Any]:
    """Its own; what it refers to is a component of the document through other routes."""
    found = body.model_json_schema(ref_template="#/components/schemas/{model}")
    found.pop("$defs", None)
    return found


def _form() -> dict[str, Any]:
    found = _schema(CaptionOptions)
    # A form has no null.
    fields = {name: {"type": "string"} for name in found["properties"]}
    image = {"image": {"type": "string", "format": "binary"}}
    return found | {"properties": image | fields, "required": ["image"]}


BYTES = {"schema": {"type": "string", "format": "binary"}}
CAPTION_REQUEST = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
        for name in CaptionOptions.model_fields
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _schema(CaptionRequest)},
            "multipart/form-data": {"schema": _form()},
            "image/*": BYTES,
            "application/octet-stream": BYTES,
        },
    },
}
"""Of /v1/caption, which reads its body itself."""

BATCH_LINES = {"application/x-ndjson": {"schema": _schema(BatchLine)}}
"""Of /v1/captions: each line of the answer."""

EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string", "description": "OpenAI's chunk, or [DONE]"}},
        }
    }
}
"""Of a streamed answer: each event."""


def name_models(app: FastAPI, names: Sequence[str]) -> None:
    """Let the document list the models that are served wherever a request names one."""
    made: Callable[[], dict[str, Any]] = app.openapi

    def with_names() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = deepcopy(made())
            for schema in _objects(found):
                model = schema.get("properties", {}).get("model")
                if isinstance(model, dict) and "Answer" not in schema.get("title", ""):
                    _name(model, names)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = with_names  # type: ignore[method-assign]


def _name(model: dict[str, Any], names: Sequence[str]) -> None:
    for text in [model, *model.get("anyOf", [])]:
        if text.get("type") == "string":
            text["enum"] = list(names)


def _objects(node: Any) -> list[dict[str, Any]]:
    """Every JSON object within, itself included."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    found = [one for child in inner for one in _objects(child)]
    return [node, *found] if isinstance(node, dict) else found
