"""Which prompt an image is asked with, and what it says: weighted, by source, with its own words.

Chosen by the image's id, so that every run asks the same.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

MAX_VALUE_CHARACTERS = 2000
"""What a column may put into a prompt: alt texts have been found that hold whole web pages."""

COLUMN = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_MARKS = re.compile(r"<(/?\w+|\|\w+\|)>")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of the texts that images are asked with.

    Attributes:
        text: `{column}` stands for a value of the image: image_id, source, sidecar (its text), or
            a field of a sidecar that is a JSON object.
        weight: Its share among the prompts of a source.
        source: Pattern of the sources that it is for.
    """

    text: str
    weight: float = 1.0
    source: str = "*"

    @property
    def columns(self) -> list[str]:
        return COLUMN.findall(self.text)


def ask(prompts: Sequence[Prompt], planned: Mapping[str, Any]) -> tuple[str, str | None]:
    """The prompt of a row of the plan, and why there is none, if so.

    Reasons: `no_prompt` for its source; `prompt_column_missing:<name>`.
    """
    fitting = [prompt for prompt in prompts if fnmatchcase(planned["source"], prompt.source)]
    if not fitting:
        return "", "no_prompt"
    chosen = _chosen(fitting, planned["image_id"])
    if not chosen.columns:
        return chosen.text, None
    values = _values(planned)
    missing = [name for name in chosen.columns if values.get(name) is None]
    if missing:
        return chosen.text, f"prompt_column_missing:{missing[0]}"
    return COLUMN.sub(lambda match: _tame(values[match[1]]), chosen.text), None


def _chosen(prompts: Sequence[Prompt], image_id: str) -> Prompt:
    digest = hashlib.sha256(image_id.encode("utf-8", "replace")).digest()
    left = int.from_bytes(digest[:8], "big") / 2**64 * sum(prompt.weight for prompt in prompts)
    for prompt in prompts:
        left -= prompt.weight
        if left < 0:
            return prompt
    return prompts[-1]


def _values(planned: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: planned[name] for name in ("image_id", "source", "sidecar")}
    try:
        found = json.loads(planned["sidecar"] or "null")
    except ValueError:
        found = None
    return {**found, **values} if isinstance(found, dict) else values


def _tame(value: object) -> str:
    """One line without marks of templates: other people's words must not forge an image or a
    turn."""
    text = " ".join(_MARKS.sub(r" \1 ", str(value)).split())
    return text[:MAX_VALUE_CHARACTERS]
