"""Judges answers that must be JSON of a schema: the schema decides, and no rule about prose."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema

_FENCE = "```"


@dataclass(frozen=True, slots=True)
class SchemaGate:
    """The gate of a field with a JSON schema. Small and picklable.

    Attributes:
        schema: The schema, as JSON text.
    """

    schema: str

    def judge(self, text: str, finish_reason: str | None, prompt: str = "") -> str | None:
        """The reason why a text is no answer, or None if it is one.

        Reasons: `empty`; `truncated_caption` if it was cut off; `no_json`; `schema:<keyword>`, the
        keyword of the schema that it violates.
        """
        if not text.strip():
            return "empty"
        try:
            found = parse_json(text)
        except ValueError:
            return "truncated_caption" if finish_reason == "length" else "no_json"
        error = jsonschema.exceptions.best_match(_build_validator(self.schema).iter_errors(found))
        return None if error is None else f"schema:{error.validator}"


def parse_json(text: str) -> Any:
    """The value that an answer spells, in a code fence or not.

    Raises:
        ValueError: It is no JSON; NaN and Infinity are none.
    """
    return json.loads(strip_fence(text), parse_constant=_refuse_constant)


def strip_fence(text: str) -> str:
    """An answer without the code fence around it: endpoints that do not know schemas write one."""
    text = text.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE) and "\n" in text:
        return text[text.index("\n") : -len(_FENCE)].strip()
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@lru_cache(maxsize=64)
def _build_validator(schema: str) -> Any:
    found = json.loads(schema)
    kind = jsonschema.validators.validator_for(found, default=jsonschema.Draft202012Validator)
    return kind(found)
