"""Which prompt an image gets, and what it says: weighted, by source, with values of the image.

The image's id chooses, so that every run asks the same.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

_MAX_VALUE_CHARACTERS = 2000
"""Longest value that a column may put into a prompt: some alt texts hold whole web pages."""

OTHERS = ""
"""As a prompt's source: the sources that no other prompt is for."""

_COLUMN = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_MARKS = re.compile(r"<(/?\w+|\|\w+\|)>")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of the prompts that images get.

    Attributes:
        text: `{column}` is replaced by a value of the image: image_id, source, sidecar (its text),
            or a field of a sidecar that is a JSON object.
        weight: The prompt's share among the prompts of a source.
        source: Pattern of the sources that the prompt is for, or OTHERS.
    """

    text: str
    weight: float = 1.0
    source: str = "*"

    @property
    def columns(self) -> list[str]:
        return _COLUMN.findall(self.text)


@dataclass(frozen=True, slots=True)
class Question:
    """The question about one image, as far as it is known before the first answer.

    Attributes:
        text: The prompt; a template if answers to earlier questions stand in it.
        problem: Why the image cannot be asked: `no_prompt` for its source, or
            `prompt_column_missing:<name>`.
        needs: Names of the earlier fields whose answers stand in it.
        values: Values of the image that stand in it beside them.
    """

    text: str
    problem: str | None = None
    needs: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()

    def fill(self, answers: Mapping[str, str]) -> str:
        """The prompt, with the answers to earlier questions."""
        if not self.needs:
            return self.text
        values = dict(self.values) | {name: _clean_value(answers[name]) for name in self.needs}
        return _COLUMN.sub(lambda match: values[match[1]], self.text)


def choose_question(
    prompts: Sequence[Prompt], planned: Mapping[str, Any], fields: Collection[str] = ()
) -> Question:
    """The question of a planned image.

    Args:
        fields: Names of earlier fields, whose answers prompts may use like columns.
    """
    fitting = [prompt for prompt in prompts if fnmatchcase(planned["source"], prompt.source)]
    fitting = fitting or [prompt for prompt in prompts if prompt.source == OTHERS]
    if not fitting:
        return Question("", "no_prompt")
    chosen = _draw_prompt(fitting, planned["image_id"])
    if not chosen.columns:
        return Question(chosen.text)
    needs = tuple(dict.fromkeys(name for name in chosen.columns if name in fields))
    own = [name for name in dict.fromkeys(chosen.columns) if name not in fields]
    found = _collect_values(planned)
    missing = [name for name in own if found.get(name) is None]
    if missing:
        return Question(chosen.text, f"prompt_column_missing:{missing[0]}")
    values = {name: _clean_value(found[name]) for name in own}
    if needs:
        return Question(chosen.text, None, needs, tuple(values.items()))
    return Question(_COLUMN.sub(lambda match: values[match[1]], chosen.text))


def _draw_prompt(prompts: Sequence[Prompt], image_id: str) -> Prompt:
    digest = hashlib.sha256(image_id.encode("utf-8", "replace")).digest()
    left = int.from_bytes(digest[:8], "big") / 2**64 * sum(prompt.weight for prompt in prompts)
    for prompt in prompts:
        left -= prompt.weight
        if left < 0:
            return prompt
    return prompts[-1]


def _collect_values(planned: Mapping[str, Any]) -> dict[str, Any]:
    sidecar = planned["payload"]
    values = {"image_id": planned["image_id"], "source": planned["source"], "sidecar": sidecar}
    try:
        found = json.loads(sidecar or "null")
    except ValueError:
        found = None
    return {**found, **values} if isinstance(found, dict) else values


def _clean_value(value: object) -> str:
    """One line without marks of templates: a text from the data must not forge an image or a
    turn."""
    text = " ".join(_MARKS.sub(r" \1 ", str(value)).split())
    return text[:_MAX_VALUE_CHARACTERS]
