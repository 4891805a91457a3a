"""Captions of a view by sources of graded quality, as the paper compares them (Fig. 1, Table 1)."""

import random
from collections.abc import Callable
from dataclasses import replace

from s4v_core.demo.world.views import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    LETTERS,
    SHAPES,
    SIZES,
    TEXTURES,
    Sign,
    Thing,
    View,
)

NUMBERS = ("no", "one", "two", "three")
_MOST_RELATIONS = 2
_NAMED_SHARE = 0.6
"""Share of noisy captions with a colour."""
_WRONG_SHARE = 0.15
"""Share of the words of a noisy caption that are wrong."""


def write_exact(view: View, chance: random.Random) -> str:
    """All of a view, exactly and in detail: the part of GPT4-Vision."""
    count = len(view.things)
    shapes = f"{NUMBERS[count]} {'shape' if count == 1 else 'shapes'}"
    parts = [f"The image shows {shapes} on a {view.background} background."]
    parts += [f"At the {one.place} is a {describe(one)}." for one in view.things]
    if view.sign:
        parts.append(f"The sign at the {view.sign.place} says {view.sign.letter}.")
    related = view.list_relations()[:_MOST_RELATIONS]
    parts += [f"The {one.shape} is {word} the {other.shape}." for one, word, other in related]
    return " ".join(parts)


def describe(thing: Thing) -> str:
    """A shape in words, without its place."""
    return f"{thing.size} {thing.texture} {thing.colour} {thing.shape}"


def write_brief(view: View, chance: random.Random) -> str:
    """The main subject in a few right words, as people wrote them for COCO."""
    names = [_add_article(thing.name) for thing in view.things[:2]]
    return " and ".join(names).capitalize() + "."


def write_noisy(view: View, chance: random.Random) -> str:
    """One thing in a few words that are not always right, as BLIP writes them."""
    thing = chance.choice(view.things)
    colour = _blur(thing.colour, tuple(COLOURS), chance)
    shape = _blur(thing.shape, SHAPES, chance)
    if (colour, shape) in HELD_OUT:  # no lesson names such a pair, not even by mistake
        colour, shape = thing.colour, thing.shape
    named = f"{colour} {shape}" if chance.random() < _NAMED_SHARE else shape
    return f"A picture of {_add_article(named)}."


def _add_article(name: str) -> str:
    return f"{'an' if name.startswith('orange') else 'a'} {name}"


def _blur(word: str, known: tuple[str, ...], chance: random.Random) -> str:
    return chance.choice(known) if chance.random() < _WRONG_SHARE else word


def write_imagined(view: View, chance: random.Random) -> str:
    """Colours, shapes and places are right and everything else is invented: the part of GPT4, which
    read brief captions and boxes and never saw the picture."""
    things = tuple(
        replace(one, size=chance.choice(list(SIZES)), texture=chance.choice(TEXTURES))
        for one in view.things
    )
    sign = view.sign and Sign(chance.choice(LETTERS), view.sign.place)
    background = chance.choice(list(BACKGROUNDS))
    return write_exact(replace(view, background=background, things=things, sign=sign), chance)


SOURCES: dict[str, Callable[[View, random.Random], str]] = {
    "brief": write_brief,
    "noisy": write_noisy,
    "imagined": write_imagined,
    "teacher": write_exact,
}
"""Writers of captions by the name of their file."""
