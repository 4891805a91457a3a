"""The parts of the OpenAPI document that FastAPI cannot derive from the routes."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from serve.api.schemas import BatchLine, CaptionOptions, CaptionRequest


def _build_schema(body: type[BaseModel]) -> dict[str, Any]:
    """Build the JSON schema of a body, without the schemas that it refers to: other routes already
    put those into the document's components."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema


def _describe_option(name: str) -> dict[str, str]:
    return {"description": CaptionOptions.model_fields[name].description or ""}


def _build_form_schema() -> dict[str, Any]:
    schema = _build_schema(CaptionOptions)
    # The fields of a form cannot be null.
    fields = {name: {"type": "string"} | _describe_option(name) for name in schema["properties"]}
    image = {"type": "string", "format": "binary", "description": "The image file."}
    return schema | {"properties": {"image": image} | fields, "required": ["image"]}


_BYTES = {"schema": {"type": "string", "format": "binary"}}
CAPTION_REQUEST = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
        | _describe_option(name)
        for name in CaptionOptions.model_fields
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _build_schema(CaptionRequest)},
            "multipart/form-data": {"schema": _build_form_schema()},
            "image/*": _BYTES,
            "application/octet-stream": _BYTES,
        },
    },
}
"""Parameters and body of /v1/caption, which reads its body itself."""

BATCH_LINES = {"application/x-ndjson": {"schema": _build_schema(BatchLine)}}
"""Each line of the answer of /v1/captions."""

_EVENT_DATA = {
    "type": "string",
    "description": "OpenAI's chunk or event as JSON; [DONE] ends chunks.",
}
EVENTS = {
    "text/event-stream": {
        "schema": {"type": "object", "required": ["data"], "properties": {"data": _EVENT_DATA}}
    }
}
"""Each event of a streamed answer."""


def add_model_names(app: FastAPI, names: Sequence[str]) -> None:
    """Make the document list the served models wherever a request names one."""
    build_document: Callable[[], dict[str, Any]] = app.openapi

    def build_with_names() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = deepcopy(build_document())
            for schema in _list_objects(document):
                model = schema.get("properties", {}).get("model")
                if isinstance(model, dict) and "Answer" not in schema.get("title", ""):
                    _restrict_to_names(model, names)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = build_with_names  # type: ignore[method-assign]


def _restrict_to_names(model: dict[str, Any], names: Sequence[str]) -> None:
    for schema in [model, *model.get("anyOf", [])]:
        if schema.get("type") == "string":
            schema["enum"] = list(names)


def _list_objects(node: Any) -> list[dict[str, Any]]:
    """List every JSON object in `node`, including `node` itself."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    found = [inner for child in children for inner in _list_objects(child)]
    return [node, *found] if isinstance(node, dict) else found
