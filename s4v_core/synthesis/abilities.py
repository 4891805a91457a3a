"""Abilities: the kinds of knowledge that data is made for, with the texts that writers are given.

The paper names thirteen abilities and three kinds for several images, and prints no keywords,
cautions or examples but one; those of `abilities.json` are this project's, and `origin` says so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from s4v_core import storage
from s4v_core.errors import ConfigError, InputError

OURS = "ours"
"""Origin of a text that the paper does not give."""


@dataclass(frozen=True, slots=True)
class Example:
    """An example that a writer is shown.

    Attributes:
        example_id: Its name; rows list the names of the examples that they were written with.
        prompts: One image prompt per image.
        description: The answer of a dialogue; empty in an example of prompts alone.
        keywords: Alternatives, each a list of words that the response must name.
    """

    example_id: str
    prompts: tuple[str, ...]
    description: str = ""
    question: str = ""
    response: str = ""
    keywords: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Ability:
    """A kind of knowledge, and what writers are told about it.

    Attributes:
        title: How templates call it.
        images: Images of each record.
        pool: Questions that dialogues are opened with.
        keywords: Words that prompts choose from, made separately against low diversity.
        examples: The hand-written ones.
        origin: Where cautions, keywords and examples come from.
    """

    name: str
    title: str
    images: int
    pool: tuple[str, ...]
    cautions: str
    keywords: tuple[str, ...]
    examples: tuple[Example, ...]
    origin: Mapping[str, str] = field(default_factory=dict)


def load_abilities(place: str | None = None) -> dict[str, Ability]:
    """Abilities by name: those of this package, or those of a JSON file of the same form.

    Raises:
        InputError: The file has another form.
    """
    if place is None:
        text = resources.files(__package__).joinpath("abilities.json").read_text("utf-8")
    else:
        text = storage.read(place).decode("utf-8", "replace")
    try:
        whole = json.loads(text)
        pools = whole["pools"]
        found = [_build_ability(one, pools) for one in whole["abilities"]]
    except (KeyError, TypeError, ValueError) as error:
        problem = (
            f"is no file of abilities ({type(error).__name__}: {error}); see docs/synthesis.md"
        )
        raise InputError(place or "abilities.json", problem) from None
    return {ability.name: ability for ability in found}


def choose_abilities(known: Mapping[str, Ability], names: Sequence[str]) -> dict[str, Ability]:
    """The abilities of these names; all if none is named.

    Raises:
        ConfigError: A name is not known.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"ability: found {unknown[0]!r}, allowed {', '.join(known)}")
    return {name: known[name] for name in names or known}


def _build_ability(row: Mapping[str, Any], pools: Mapping[str, Sequence[str]]) -> Ability:
    name, images = str(row["name"]), int(row["images"])
    examples = tuple(
        build_example(f"{name}/hand-{number}", one) for number, one in enumerate(row["examples"], 1)
    )
    if any(len(one.prompts) != images for one in examples):
        raise ValueError(f"an example of {name} has another number of prompts than {images}")
    return Ability(
        name=name,
        title=str(row["title"]),
        images=images,
        pool=tuple(pools[row["pool"]]),
        cautions=str(row["cautions"]),
        keywords=tuple(map(str, row["keywords"])),
        examples=examples,
        origin=dict(row.get("origin", {})),
    )


def build_example(example_id: str, row: Mapping[str, Any]) -> Example:
    """An example from its JSON object."""
    return Example(
        example_id,
        tuple(map(str, row["prompts"])),
        str(row.get("description", "")),
        str(row.get("question", "")),
        str(row.get("response", "")),
        tuple(tuple(map(str, several)) for several in row.get("keywords", ())),
    )


def write_abilities(uri: str, abilities: Mapping[str, Ability]) -> None:
    """Write abilities as a file that `load_abilities` reads; one that is there stays as it is."""
    rows = [
        {
            "name": one.name,
            "title": one.title,
            "images": one.images,
            "pool": one.name,
            "cautions": one.cautions,
            "keywords": one.keywords,
            "origin": dict(one.origin),
            "examples": [
                {
                    "prompts": example.prompts,
                    "description": example.description,
                    "question": example.question,
                    "response": example.response,
                    "keywords": example.keywords,
                }
                for example in one.examples
            ],
        }
        for one in abilities.values()
    ]
    whole = {"pools": {one.name: one.pool for one in abilities.values()}, "abilities": rows}
    storage.create(uri, (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode())
