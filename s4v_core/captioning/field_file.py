"""`--fields FILE`: the fields of a pass, as a JSON list of objects."""

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from s4v_core import storage
from s4v_core.captioning.fields import CaptionField, build_field
from s4v_core.captioning.finishing import Finish
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.json_file import read_json_file
from s4v_core.captioning.prompts import Prompt
from s4v_core.captioning.schema_file import check_schema, read_schema
from s4v_core.config import Config
from s4v_core.engines.ladder import Ladder
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import ConfigError
from s4v_core.prompts import find_prompt
from s4v_core.records.captions import FIELDS, MAIN_FIELD, RESULT_SCHEMA, values_column

_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "prompt": str,
    "prompt_name": str,
    "sampling": dict,
    "gate": dict,
    "schema": (dict, str),
    "prefill": str,
    "prepend": str,
    "append": str,
    "cut_prefix_words": list,
}
C = TypeVar("C", bound=Config)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VALUES = ("image_id", "source", "sidecar")
"""Values of an image that prompts use by these names."""


def read_fields(
    uri: str, sampling: SamplingConfig, gate: Gate, ladder: Ladder
) -> tuple[CaptionField, ...]:
    """The fields of a file, in the order in which they are asked.

    Args:
        sampling, gate, ladder: Settings of the job, which a field changes in part.

    Raises:
        ConfigError: The file cannot be read, or an entry is no field; the sentence names it.
    """
    base = storage.parent(uri)
    fields = [
        _build_field(f"fields: {uri}: entry {number}", entry, base, sampling, gate, ladder)
        for number, entry in enumerate(_read_entries(uri), 1)
    ]
    if not fields:
        raise ConfigError(f"fields: {uri} holds no field")
    _check_names(f"fields: {uri}", [field.name for field in fields])
    _check_order(f"fields: {uri}", fields)
    return tuple(fields)


def _read_entries(uri: str) -> list[Any]:
    found = read_json_file(uri, "fields")
    if not isinstance(found, list):
        raise ConfigError(f"fields: {uri}: found {type(found).__name__}, needed a list of fields")
    return found


def _build_field(
    where: str, entry: Any, base: str, sampling: SamplingConfig, gate: Gate, ladder: Ladder
) -> CaptionField:
    _check_entry(where, entry)
    schema = entry.get("schema")
    if isinstance(schema, str):
        schema = read_schema(schema if _is_absolute(schema) else storage.join(base, schema))
    elif schema is not None:
        schema = check_schema(schema, f"{where}: schema")
    words = tuple(entry.get("cut_prefix_words", ()))
    finish = Finish(entry.get("prepend", ""), entry.get("append", ""), words, schema is not None)
    refuse_texts_around_json(where, schema, finish, entry.get("prefill", ""))
    return build_field(
        entry["name"],
        (Prompt(_find_text(where, entry)),),
        _change(f"{where}: sampling", sampling, entry.get("sampling", {})),
        _change(f"{where}: gate", gate, entry.get("gate", {})),
        ladder,
        schema=schema,
        prefill=entry.get("prefill", ""),
        finish=finish,
    )


def _check_entry(where: str, entry: Any) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ConfigError(f"{where}: found {entry!r}, needed an object with a name and a prompt")
    for key, value in entry.items():
        if key not in _KEYS:
            raise ConfigError(f"{where}: found {key}, allowed {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise ConfigError(f"{where}: {key}: found {value!r}")
    if not all(isinstance(words, str) for words in entry.get("cut_prefix_words", ())):
        raise ConfigError(f"{where}: cut_prefix_words: needed a list of texts")


def refuse_texts_around_json(
    where: str, schema: Mapping[str, Any] | None, finish: Finish, prefill: str
) -> None:
    """Raise ConfigError if an answer that must be JSON would get words that are none."""
    if schema is None:
        return
    texts = {
        "prefill": prefill,
        "prepend": finish.prepend,
        "append": finish.append,
        "cut_prefix_words": finish.cut_prefix_words,
    }
    for name, text in texts.items():
        if text:
            raise ConfigError(f"{where}: found a schema and {name}, allowed one of them")


def _find_text(where: str, entry: Mapping[str, Any]) -> str:
    if ("prompt" in entry) == ("prompt_name" in entry):
        raise ConfigError(f"{where}: needed a prompt or a prompt_name, and not both")
    if "prompt_name" in entry:
        return find_prompt(entry["prompt_name"]).text
    text: str = entry["prompt"]
    if not text.strip():
        raise ConfigError(f"{where}: prompt: found an empty text, allowed any other")
    return text


def _change(where: str, config: C, changes: Mapping[str, Any]) -> C:
    try:
        return config.replace(**changes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_names(where: str, names: list[str]) -> None:
    taken = {*RESULT_SCHEMA.names, FIELDS, *_VALUES} - {MAIN_FIELD}
    taken |= {values_column(name) for name in names}
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: found the name {name!r}, allowed small letters, digits and _, a letter "
                "first"
            )
        if name in taken:
            raise ConfigError(f"{where}: found the name {name}, which another column has")
        taken.add(name)


def _check_order(where: str, fields: Collection[CaptionField]) -> None:
    """A prompt uses earlier fields alone; so no two can wait for each other."""
    left = {field.name for field in fields}
    for field in fields:
        for name in sorted(field.columns & left):
            which = "itself" if name == field.name else f"{name}, which comes later"
            raise ConfigError(
                f"{where}: the prompt of {field.name} uses {which}; a field is asked after those "
                "that it uses"
            )
        left.discard(field.name)


def _is_absolute(uri: str) -> bool:
    return uri.startswith("/") or "://" in uri
