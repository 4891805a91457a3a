"""The typed column that the answers of a JSON schema fill, one member per property.

The text of an answer is the record; this column is a copy of it that queries can use.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_SCALARS: dict[str, "pa.DataType"] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
_INT64 = range(-(2**63), 2**63)


def build_values_type(schema: Mapping[str, Any]) -> "pa.StructType | None":
    """The type of the column; None for a schema that names no properties.

    Strings, integers, numbers, booleans and lists of these have their own types. Any other value
    (objects, unions, lists of lists) is kept as JSON text.
    """
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return None
    return pa.struct([pa.field(name, _find_type(one)) for name, one in properties.items()])


def pick_values(schema: Mapping[str, Any], text: str | None) -> dict[str, Any] | None:
    """The values of one answer, by property; what the answer lacks is None.

    Integers beyond 64 bits are None, too: the text has them.

    Args:
        text: The answer's JSON.
    """
    kind = build_values_type(schema)
    try:
        found = json.loads(text) if text is not None else None
    except ValueError:
        return None
    if kind is None or not isinstance(found, dict):
        return None
    return {field.name: _fit(found.get(field.name), field.type) for field in kind}


def _find_type(schema: Any) -> "pa.DataType":
    if not isinstance(schema, dict):
        return pa.string()
    kind = _find_kind(schema)
    if kind == "array":
        items = schema.get("items")
        item = _find_kind(items) if isinstance(items, dict) else None
        return pa.list_(_SCALARS[item]) if item in _SCALARS else pa.string()
    return _SCALARS.get(kind or "", pa.string())


def _find_kind(schema: Mapping[str, Any]) -> str | None:
    """The one type of a schema, null beside it or not."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    named = [one for one in kinds if one != "null"]
    return named[0] if len(named) == 1 else None


def _fit(value: Any, kind: "pa.DataType") -> Any:
    """A value as Arrow takes it; valid answers of the schema always fit."""
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [_fit(one, kind.value_type) for one in value] if isinstance(value, list) else None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if not is_number:
        return None
    if pa.types.is_floating(kind):
        return float(value)
    return int(value) if value == int(value) and int(value) in _INT64 else None
