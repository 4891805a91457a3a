"""The abilities that drawn scenes can express, for the demo: colors, and what two scenes show.

Scenes have no animals, food or professions; these abilities are left out rather than pretended.
"""

import random
from collections.abc import Sequence
from itertools import product

from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Shape
from s4v_core.synthesis.abilities import OURS, Ability, Example, load_abilities
from s4v_core.synthesis.parsing import find_pair
from s4v_core.synthesis.scene_prompts import find_shape, write_prompt

_CAUTIONS = (
    "Name only shapes, as size, color, shape and place, and the color of the background last; put "
    "the first shape into the brackets."
)
KEYWORDS = tuple(" ".join(words) for words in product(SIZES, COLOURS, SHAPES))
_ABILITIES = ("color", "difference", "similarity", "reasoning")
_EXAMPLES = 5


def list_demo_abilities() -> dict[str, Ability]:
    """Abilities of the demo world, by name."""
    pools = load_abilities()
    return {name: _build(name, pools[name]) for name in _ABILITIES}


def _build(name: str, real: Ability) -> Ability:
    chance = random.Random(name)
    examples = []
    for number in range(1, _EXAMPLES + 1):
        prompts = invent_prompts(name, chance.choice(KEYWORDS), chance)
        question, response, words = ask_about(prompts, chance)
        examples.append(
            Example(
                f"{name}/hand-{number}",
                prompts,
                describe(name, prompts),
                question,
                response,
                ((words,),),
            )
        )
    origin = dict.fromkeys(("cautions", "keywords", "examples"), OURS)
    return Ability(
        name, real.title, real.images, real.pool, _CAUTIONS, KEYWORDS, tuple(examples), origin
    )


def invent_prompts(ability: str, keyword: str, chance: random.Random) -> tuple[str, ...]:
    """Image prompts about a keyword, which is a size, a color and a shape."""
    size, colour, shape = keyword.split()
    place = chance.choice(list(PLACES))
    main = Shape(size, colour, shape, place)
    background = chance.choice(list(BACKGROUNDS))
    others = _invent_others(place, chance)
    first = write_prompt(main, others, background)
    if ability == "difference":
        other = chance.choice([one for one in COLOURS if one != colour])
        return first, write_prompt(Shape(size, other, shape, place), others, background)
    if ability == "similarity":
        elsewhere = chance.choice([one for one in BACKGROUNDS if one != background])
        return first, write_prompt(main, _invent_others(place, chance), elsewhere)
    if ability == "reasoning":
        free = [one for one in PLACES if one not in {place, *(s.place for s in others)}]
        others, free = (others, free) if free else ((), [one for one in PLACES if one != place])
        moved = Shape(size, colour, shape, chance.choice(free))
        return write_prompt(main, others, background), write_prompt(moved, others, background)
    return (first,)


def _invent_others(taken: str, chance: random.Random) -> tuple[Shape, ...]:
    free = [place for place in PLACES if place != taken]
    places = chance.sample(free, chance.randint(0, len(free) - 1))
    return tuple(
        Shape(
            chance.choice(list(SIZES)), chance.choice(list(COLOURS)), chance.choice(SHAPES), place
        )
        for place in sorted(places, key=list(PLACES).index)
    )


def describe(ability: str, prompts: Sequence[str]) -> str:
    """The answer of a dialogue about the bracketed shapes of these prompts."""
    shapes = [find_shape(find_pair(prompt)) for prompt in prompts]
    one = shapes[0]
    if one is None or None in shapes:
        return ""
    if ability == "difference" and shapes[1]:
        return (
            f"The {one.shape} at the {one.place} is {one.colour} in the first image and "
            f"{shapes[1].colour} in the second image."
        )
    if ability == "similarity":
        return f"Both images have a {one.size} {one.colour} {one.shape} at the {one.place}."
    if ability == "reasoning" and shapes[1]:
        return (
            f"The {one.size} {one.colour} {one.shape} has moved from the {one.place} to the "
            f"{shapes[1].place}."
        )
    return f"The {one.shape} at the {one.place} is {one.colour}."


def ask_about(prompts: Sequence[str], chance: random.Random) -> tuple[str, str, str]:
    """A question about the bracketed shape of the first prompt, its answer, and the word that the
    answer must name."""
    one = find_shape(find_pair(prompts[0]))
    if one is None:
        return "", "", ""
    other = chance.choice([colour for colour in COLOURS if colour != one.colour])
    place = f"the {one.shape} at the {one.place}"
    forms = (
        (f"What is the color of {place}?", f"The {one.shape} is {one.colour}.", one.colour),
        (f"Is {place} {one.colour} or {other}?", f"It is {one.colour}.", one.colour),
        (f"Is {place} {one.colour}?", f"Yes, it is {one.colour}.", "yes"),
        (f"Which color does {place} have?", f"It has the color {one.colour}.", one.colour),
    )
    return chance.choice(forms)
