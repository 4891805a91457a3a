"""`--prompts FILE`: the prompts of a pass, one per line or as JSON with weights and sources."""

import json
from typing import Any

from s4v_core import storage
from s4v_core.captioning.prompts import Prompt
from s4v_core.errors import ConfigError

_FIELDS = {"prompt": str, "weight": (int, float), "source": str}


def read_prompts(uri: str) -> tuple[Prompt, ...]:
    """The prompts of a file: `.json` or `.jsonl` with {"prompt": ..., "weight": 1, "source": "*"},
    any other a prompt per line.

    Raises:
        ConfigError: It cannot be read, or an entry is not one; the sentence names it.
    """
    try:
        text = storage.read(uri).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        raise ConfigError(f"prompts: {uri} is no readable text file") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if uri.endswith((".json", ".jsonl")):
        entries = _parsed(uri, text, lines)
        prompts = [_prompt(uri, number, entry) for number, entry in enumerate(entries, 1)]
    else:
        prompts = [Prompt(line) for line in lines]
    if not prompts:
        raise ConfigError(f"prompts: {uri} holds no prompt")
    return tuple(prompts)


def _parsed(uri: str, text: str, lines: list[str]) -> list[Any]:
    try:
        found = [json.loads(x) for x in lines] if uri.endswith(".jsonl") else json.loads(text)
    except ValueError as error:
        raise ConfigError(f"prompts: {uri} is no JSON: {error}") from None
    if not isinstance(found, list):
        raise ConfigError(f"prompts: {uri}: found {type(found).__name__}, needed a list of prompts")
    return found


def _prompt(uri: str, number: int, entry: Any) -> Prompt:
    where = f"prompts: {uri}: entry {number}"
    entry = {"prompt": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not str(entry.get("prompt", "")).strip():
        raise ConfigError(f"{where}: found {entry!r}, needed an object with a prompt")
    for name, value in entry.items():
        if name not in _FIELDS:
            raise ConfigError(f"{where}: found {name}, allowed {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[name]):  # type: ignore[arg-type]
            raise ConfigError(f"{where}: {name}: found {value!r}")
    weight = float(entry.get("weight", 1))
    if weight <= 0:
        raise ConfigError(f"{where}: weight: found {weight:g}, allowed more than 0")
    return Prompt(entry["prompt"], weight, entry.get("source", "*"))
