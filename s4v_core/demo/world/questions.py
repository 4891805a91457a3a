"""Questions about a view, each in three forms: open, by letter, and by yes or no."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from s4v_core.demo.world.captions import NUMBERS
from s4v_core.demo.world.views import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    LETTERS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Thing,
    View,
    relate,
)

_OPTIONS = 4


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is so in a view.

    Attributes:
        kind: What it is about: existence, count, position, colour, texture, size, text or scene.
        question: An open question.
        claim: A question by yes or no, with a gap for an answer.
        answer: The right answer.
        others: Wrong answers, at least one.
    """

    kind: str
    question: str
    claim: str
    answer: str
    others: tuple[str, ...]

    def draw_pair(self, chance: random.Random) -> tuple[str, str]:
        """A question whose answer is yes, and one whose answer is no."""
        return self.claim.format(self.answer), self.claim.format(chance.choice(self.others))

    def draw_options(self, chance: random.Random) -> list[str]:
        """Up to four answers, the right one first."""
        wrong = chance.sample(self.others, min(len(self.others), _OPTIONS - 1))
        return [self.answer, *wrong]


def list_facts(view: View, thing: Thing) -> list[Fact]:
    """Everything that can be asked about a view and one of its shapes."""
    shape = f"the {thing.shape}"
    facts = [
        Fact(
            "existence",
            f"What is at the {thing.place}?",
            "Is there any {}?",
            thing.name,
            _list_absent(view),
        ),
        _build(
            "count",
            "How many shapes are there?",
            "Is the number of shapes {}?",
            NUMBERS[len(view.things)],
            NUMBERS[1:],
        ),
        _build("colour", f"Which colour is {shape}?", f"Is {shape} {{}}?", thing.colour, COLOURS),
        _build(
            "texture", f"Which texture has {shape}?", f"Is {shape} {{}}?", thing.texture, TEXTURES
        ),
        _build("size", f"Which size is {shape}?", f"Is {shape} {{}}?", thing.size, SIZES),
        _build(
            "scene",
            "Which colour is the background?",
            "Is the background {}?",
            view.background,
            BACKGROUNDS,
        ),
    ]
    if view.sign:
        facts.append(
            _build(
                "text",
                "What does the sign say?",
                "Does the sign say {}?",
                view.sign.letter,
                LETTERS,
            )
        )
    return facts + _list_positions(view, thing)


def _build(kind: str, question: str, claim: str, answer: str, known: Iterable[str]) -> Fact:
    others = tuple(one for one in known if one != answer)
    return Fact(kind, question, claim, answer, others)


def _list_absent(view: View) -> tuple[str, ...]:
    """Names of shapes that are not there, but whose colour or shape is: they distract. A question
    of a lesson never names a held-out pair, which would always be the wrong answer."""
    is_exam = (view.focus.colour, view.focus.shape) in HELD_OUT
    names = {one.name for one in view.things}
    colours, shapes = {one.colour for one in view.things}, {one.shape for one in view.things}
    near = [
        f"{colour} {shape}"
        for colour in COLOURS
        for shape in SHAPES
        if (colour in colours) != (shape in shapes) and (is_exam or (colour, shape) not in HELD_OUT)
    ]
    return tuple(name for name in near if name not in names)


def _list_positions(view: View, thing: Thing) -> list[Fact]:
    """Where the shape is, seen from the first other one in its row or column."""
    others = [one for one in view.things if one != thing and relate(thing, one)]
    return [
        _build(
            "position",
            f"Where is the {thing.shape} from the {one.shape}?",
            f"Is the {thing.shape} {{}} the {one.shape}?",
            relate(thing, one),
            RELATIONS,
        )
        for one in others[:1]
    ]
