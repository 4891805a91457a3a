"""The paper's bootstrap: the first calls see five hand-written examples, all later ones these and
twenty outputs of the first.

The authors chose theirs by hand. Here they are chosen for variety, and the file that holds them may
be edited, or given by the user, before the second wave begins.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.flow.task import Row
from s4v_core.synthesis.abilities import Ability, Example, build_example
from s4v_core.synthesis.diversity import NearDuplicates
from s4v_core.synthesis.parsing import find_pair

CURATED = 20
"""Outputs that join the hand-written examples (Sec. 4.3)."""

EXAMPLES_NAME = "examples.json"

_VARIED = 0.5
"""Similarity from which two outputs are too near to be examples both."""


def list_hand_written(abilities: Mapping[str, Ability]) -> dict[str, tuple[Example, ...]]:
    return {name: ability.examples for name, ability in abilities.items()}


def join_curated(
    output: str, abilities: Mapping[str, Ability], first: Iterable[Row], given: str | None = None
) -> dict[str, tuple[Example, ...]]:
    """The hand-written examples and the curated ones of a stage, by ability.

    Args:
        output: Folder of the stage, which holds examples.json once they are chosen.
        first: Rows of the first wave.
        given: A file of the same form, which is taken in place of a choice.
    """
    place = given or storage.join(output, EXAMPLES_NAME)
    if given is None and storage.stat(place) is None:
        chosen = _choose(abilities, [row for row in first if row["status"] == "ok"])
        storage.create(place, (json.dumps(chosen, indent=1, ensure_ascii=False) + "\n").encode())
    curated = _read(place)
    return {
        name: (*ability.examples, *curated.get(name, ())) for name, ability in abilities.items()
    }


def _choose(abilities: Mapping[str, Ability], rows: list[Row]) -> dict[str, list[dict[str, Any]]]:
    chosen: dict[str, list[dict[str, Any]]] = {}
    for name, ability in abilities.items():
        known = NearDuplicates(_VARIED)
        for example in ability.examples:
            known.add(example.example_id, " | ".join(example.prompts))
        mine = [row for row in rows if row["ability"] == name]
        pairs: set[str] = set()
        found: list[Row] = []
        # First those that bracket something new, then whatever is not near to a chosen one.
        for is_new_pair in (True, False):
            for row in mine:
                pair = " | ".join(map(find_pair, row["prompts"])).casefold()
                if len(found) >= CURATED or (pair in pairs) is is_new_pair or row in found:
                    continue
                if known.add(row["row_id"], " | ".join(row["prompts"])) is None:
                    found.append(row)
                    pairs.add(pair)
        chosen[name] = [
            {
                "id": row["row_id"],
                "prompts": row["prompts"],
                "description": row["answer"] or "",
                "question": row["question"] or "",
                "response": row["answer"] or "",
            }
            for row in found
        ]
    return chosen


def _read(place: str) -> dict[str, tuple[Example, ...]]:
    try:
        whole = json.loads(storage.read(place))
        return {
            name: tuple(build_example(str(row["id"]), row) for row in rows)
            for name, rows in whole.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"is no file of examples ({type(error).__name__}: {error})"
        raise InputError(place, problem) from None
