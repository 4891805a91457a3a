"""`--json-schema FILE`: the JSON schema of an answer, checked before anything is written."""

from collections.abc import Iterator
from typing import Any

import jsonschema

from s4v_core.captioning.json_file import read_json_file
from s4v_core.errors import ConfigError


def read_schema(uri: str) -> dict[str, Any]:
    """The schema in a file.

    Raises:
        ConfigError: It cannot be read, or is no JSON schema that answers can be checked by.
    """
    return check_schema(read_json_file(uri, "schema"), f"schema: {uri}")


def check_schema(schema: Any, where: str) -> dict[str, Any]:
    """The schema itself, if answers can be checked by it.

    Args:
        where: Place of the schema, for the sentence.

    Raises:
        ConfigError: It is no JSON schema, or it refers to other files.
    """
    if not isinstance(schema, dict):
        raise ConfigError(f"{where}: found {type(schema).__name__}, needed an object")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        place = ".".join(map(str, error.absolute_path)) or "its top"
        raise ConfigError(f"{where}: is no JSON schema: at {place}: {error.message}") from None
    for reference in _list_references(schema):
        if not reference.startswith("#"):
            raise ConfigError(
                f"{where}: found $ref {reference!r}, allowed references into the schema itself (#/)"
            )
    return schema


def _list_references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name in ("$ref", "$dynamicRef"):
            if isinstance(schema.get(name), str):
                yield schema[name]
        for value in schema.values():
            yield from _list_references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _list_references(value)
