"""Views: pictures of the richer demo world, the same for the same seed.

A view has one to three shapes with colour, size and texture, often a sign with a letter, and specks
that nobody describes. Some pairs of colour and shape are in no view but those of an exam.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

COLOURS = {
    "red": (214, 40, 40),
    "green": (45, 140, 60),
    "blue": (35, 80, 200),
    "yellow": (240, 200, 40),
    "purple": (125, 55, 160),
    "orange": (240, 120, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 0.11, "large": 0.19}
"""Half the width of a shape, as a share of the view's side."""

TEXTURES = ("plain", "striped", "hollow")
LETTERS = ("H", "K", "L", "T", "X", "Z")
"""None of them names an option, and A is an article, which VQAv2's scorer takes out."""

PLACES = {
    "top left": (0.26, 0.26),
    "top right": (0.74, 0.26),
    "bottom left": (0.26, 0.74),
    "bottom right": (0.74, 0.74),
}
"""Centres of things as shares of the side: x from the left, y from the top."""

RELATIONS = ("left of", "right of", "above", "below")
BACKGROUNDS = {
    "white": (245, 245, 245),
    "grey": (150, 150, 150),
    "black": (25, 25, 25),
    "pink": (250, 190, 200),
}
HELD_OUT = frozenset(
    (colour, SHAPES[number % len(SHAPES)]) for number, colour in enumerate(COLOURS)
)
"""Pairs of colour and shape that only exams have."""

_MOST_SHAPES = 3
_SIGN_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape of a view, as keys of the constants above."""

    size: str
    texture: str
    colour: str
    shape: str
    place: str

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Sign:
    """A plate with one letter."""

    letter: str
    place: str


@dataclass(frozen=True, slots=True)
class View:
    """The content of a picture.

    Attributes:
        things: Shapes in reading order; no two are alike, and no two are at one place.
        focus: The shape of an exam whose pair of colour and shape is held out; else any.
    """

    background: str
    things: tuple[Thing, ...]
    sign: Sign | None
    focus: Thing

    def list_relations(self) -> list[tuple[Thing, str, Thing]]:
        """Each two shapes of one row or column with the words of RELATIONS between them, in the
        order of their names."""
        pairs = combinations(sorted(self.things, key=lambda one: one.shape), 2)
        return [(a, relate(a, b), b) for a, b in pairs if relate(a, b)]


def relate(one: Thing, other: Thing) -> str:
    """Where a shape is, seen from another one in its row or column; empty for any other."""
    (x, y), (other_x, other_y) = PLACES[one.place], PLACES[other.place]
    if y == other_y:
        return "left of" if x < other_x else "right of"
    if x == other_x:
        return "above" if y < other_y else "below"
    return ""


def invent_views(seed: int, is_exam: bool = False) -> Iterator[tuple[View, int]]:
    """Yield views without end, each with the seed of its painting.

    Args:
        is_exam: Whether every view has a shape of a held-out pair; without, none has.
    """
    chance = random.Random(seed)
    while True:
        yield _invent_view(chance, is_exam), chance.getrandbits(32)


def _invent_view(chance: random.Random, is_exam: bool) -> View:
    places = sorted(chance.sample(list(PLACES), _MOST_SHAPES + 1), key=list(PLACES).index)
    shapes = chance.sample(SHAPES, chance.randint(1, _MOST_SHAPES))
    focus = chance.randrange(len(shapes))
    colours = [
        _choose_colour(shape, chance, is_exam and number == focus)
        for number, shape in enumerate(shapes)
    ]
    taken = chance.sample(places, len(shapes) + 1)
    spots = sorted(taken[:-1], key=places.index)
    things = tuple(
        Thing(chance.choice(list(SIZES)), chance.choice(TEXTURES), colour, shape, place)
        for colour, shape, place in zip(colours, shapes, spots, strict=True)
    )
    sign = Sign(chance.choice(LETTERS), taken[-1]) if chance.random() < _SIGN_SHARE else None
    return View(chance.choice(list(BACKGROUNDS)), things, sign, things[focus])


def _choose_colour(shape: str, chance: random.Random, is_held_out: bool) -> str:
    allowed = [colour for colour in COLOURS if ((colour, shape) in HELD_OUT) == is_held_out]
    return chance.choice(allowed)
