"""Which JSON schemas engines can bind an answer to. Loads no engine."""

import json
from collections.abc import Iterator
from typing import Any

from s4v_core.errors import ConfigError

_BACKEND_LACKS = frozenset(
    [
        *("multipleOf", "uniqueItems", "contains", "minContains", "maxContains", "propertyNames"),
        *("patternProperties", "unevaluatedProperties", "dependentSchemas", "if", "not"),
    ]
)
"""Keywords that vLLM's xgrammar refuses or ignores (vllm/v1/structured_output/backend_xgrammar.py,
`has_xgrammar_unsupported_json_features`)."""

_NAMES_OF_USERS = frozenset(["properties", "$defs", "definitions", "enum", "const", "examples"])
"""Keywords whose objects have names, or values, that are no keywords."""


def check_answer_schema(engine: str, schema: str) -> None:
    """Check that an engine can bind answers to a JSON schema.

    Args:
        schema: As JSON text.

    Raises:
        ConfigError: It cannot.
    """
    if engine == "transformers":
        raise ConfigError(
            "schema: engine transformers cannot bind an answer to a schema; choose --engine vllm "
            "or openai"
        )
    if engine != "vllm":
        return  # an endpoint has its own rules, and every answer is checked
    lacking = sorted(set(_list_keywords(json.loads(schema))) & _BACKEND_LACKS)
    if lacking:
        raise ConfigError(
            f"schema: found {', '.join(lacking)}, which engine vllm cannot bind an answer to; "
            "leave it out"
        )


def _list_keywords(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for one in schema:
            yield from _list_keywords(one)
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        yield name
        if name in ("enum", "const", "examples", "default"):
            continue
        if name in _NAMES_OF_USERS:
            for one in value.values() if isinstance(value, dict) else ():
                yield from _list_keywords(one)
        else:
            yield from _list_keywords(value)
