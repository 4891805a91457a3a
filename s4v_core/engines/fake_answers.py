"""An answer of engine fake to a request that is bound to a JSON schema."""

import math
from typing import Any

_DEEPEST = 24
"""Levels of a schema that refers to itself, after which optional parts are left out."""


def build_example(schema: Any, text: str) -> Any:
    """A value that follows a JSON schema.

    Keeps to types, enum, const, required, references, bounds and lengths; patterns and formats are
    not looked at.

    Args:
        text: Stands wherever the schema allows any string, cut or filled to the lengths.
    """
    return _build(schema, text, schema, 0)


def _build(schema: Any, text: str, root: Any, depth: int) -> Any:
    if not isinstance(schema, dict):
        return text
    if "$ref" in schema:
        return _build(_resolve(root, schema["$ref"]), text, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][len(text) % len(schema["enum"])]
    for name in ("anyOf", "oneOf"):
        if schema.get(name):
            at = -1 if depth > _DEEPEST else 0
            return _build({**schema, name: None} | schema[name][at], text, root, depth + 1)
    if schema.get("allOf"):
        merged = {**schema, "allOf": None}
        for one in schema["allOf"]:
            merged |= one
        return _build(merged, text, root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _build_kind(kind[0] if isinstance(kind, list) else kind, schema, text, root, depth)


def _build_kind(kind: str, schema: dict[str, Any], text: str, root: Any, depth: int) -> Any:
    if kind == "object":
        required = set(schema.get("required", ()))
        return {
            name: _build(one, text, root, depth + 1)
            for name, one in schema.get("properties", {}).items()
            if name in required or depth < _DEEPEST
        }
    if kind == "array":
        count = max(schema.get("minItems", 0), min(2, schema.get("maxItems", 2)))
        count = schema.get("minItems", 0) if depth > _DEEPEST else count
        return [_build(schema.get("items", {}), text, root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return _fit_number(schema, len(text))
    if kind == "boolean":
        return len(text) % 2 == 0
    if kind == "null":
        return None
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", len(text) + 99)]


def _fit_number(schema: dict[str, Any], wanted: int) -> int:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -math.inf))
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    low = math.floor(low) + 1 if "exclusiveMinimum" in schema else low
    high = math.ceil(high) - 1 if "exclusiveMaximum" in schema else high
    fitted: float = min(max(wanted, low), high)
    return math.ceil(fitted) if fitted == low else math.floor(fitted)


def _resolve(root: Any, reference: str) -> Any:
    found = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found[name] if name else found
    return found
