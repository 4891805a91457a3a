"""The form that an answer is bound to: from response_format to the JSON schema of a request."""

import json
import re
from collections.abc import Iterator
from typing import Any

from s4v_core.engines.answer_schemas import check_answer_schema
from s4v_core.errors import ConfigError
from serve.api.bodies import Form, SchemaForm, TextForm
from serve.front.refusals import Refusal

ANY_OBJECT = '{"type": "object"}'
"""Schema of any JSON object."""

_DEEPEST, _LONGEST_CHARS = 64, 65_536
"""Levels and characters of a schema; an engine's compiler needs time and memory for each."""

_LENGTHS = frozenset(
    ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"]
)
_MOST_REPEATS, _LONGEST_PATTERN = 4096, 512
"""Largest of these lengths, and of a count in a pattern, which the compiler may write out; and most
characters of a pattern."""
_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")


def read_answer_schema(form: Form | None, engine: str, place: str) -> str | None:
    """Read the JSON schema, as text, that an answer has to follow; None if any text will do.

    Args:
        engine: Name of the engine that is to be bound.
        place: Where the form stands in the request.

    Raises:
        Refusal: 400, the engine cannot bind an answer to this schema.
    """
    if form is None or isinstance(form, TextForm):
        return None
    schema = form.json_schema.schema_ if isinstance(form, SchemaForm) else None
    return ANY_OBJECT if schema is None else write_schema(schema, engine, place)


def write_schema(schema: dict[str, Any], engine: str, place: str) -> str:
    """Check a JSON schema and write it as text.

    Raises:
        Refusal: 400, the engine cannot bind an answer to it.
    """
    _refuse_deep(schema, place)
    _refuse_large(schema, place)
    text = json.dumps(schema)
    if len(text) > _LONGEST_CHARS:
        raise _make_refusal(place, f"found {len(text)} characters, allowed {_LONGEST_CHARS}")
    try:
        check_answer_schema(engine, text)
    except ConfigError as error:
        raise _make_refusal(place, str(error).removeprefix("schema: ")) from None
    return text


def _refuse_deep(schema: Any, place: str) -> None:
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise _make_refusal(place, f"found more than {_DEEPEST} levels, allowed {_DEEPEST}")
        level = [inner for value in level for inner in _list_inner(value)]


def _refuse_large(schema: Any, place: str) -> None:
    for found in _list_objects(schema):
        for name in _LENGTHS & found.keys():
            value = found[name]
            if isinstance(value, int | float) and value > _MOST_REPEATS:
                raise _make_refusal(place, f"found {name} {value}, allowed {_MOST_REPEATS}")
        pattern = found.get("pattern")
        if isinstance(pattern, str):
            short = pattern[: _LONGEST_PATTERN + 1]
            counts = [int(n) for pair in _COUNTS.findall(short) for n in pair if n]
            if len(pattern) > _LONGEST_PATTERN or max(counts, default=0) > _MOST_REPEATS:
                allowed = f"{_LONGEST_PATTERN} characters and counts of {_MOST_REPEATS}"
                raise _make_refusal(place, f"found a larger pattern, allowed {allowed}")


def _list_objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in _list_inner(value):
        yield from _list_objects(inner)


def _list_inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _make_refusal(place: str, sentence: str) -> Refusal:
    return Refusal(400, "unsupported_schema", f"{place}: {sentence}.", param=place)
