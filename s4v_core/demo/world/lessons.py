"""Lessons about views as records in LLaVA's JSON: captions, a mixture, and text alone."""

import random
from collections.abc import Callable
from typing import Any

from s4v_core import prompts
from s4v_core.chat import IMAGE, VICUNA_V1
from s4v_core.demo.world.captions import SOURCES, write_exact, write_imagined
from s4v_core.demo.world.questions import Fact, list_facts
from s4v_core.demo.world.views import View, invent_views
from s4v_core.prompts.instructions import LETTER, SHORT

DETAIL_QUESTION = "Describe the following image."
"""Question of the detailed descriptions of a mixture, by which they are found and replaced."""

TALK_QUESTION = "Describe a picture of your choice."
"""Question of the descriptions that a language model learns to write without pictures."""

DETAIL_EVERY = 4
"""One of so many views of a mixture has a detailed description, too."""

PHRASES = (
    VICUNA_V1.system.strip(),
    prompts.CAPTION,
    DETAIL_QUESTION,
    TALK_QUESTION,
    SHORT,
    LETTER,
)
"""Texts that occur again and again; each is one token of the world's tokenizer."""

_TURNS = 4
_TALK_TURNS = 12
"""Questions about a description that is only text; each costs little beside the description."""
_OWN_DESCRIPTIONS = 0.5
"""Share of the talks whose description the language model writes itself."""
_CORPUS_VIEWS = 1500

Turn = tuple[str, str]
Record = dict[str, Any]


def write_records(name: str, views: list[tuple[str, View]], seed: int) -> list[Record]:
    """The records of one of FILES about views.

    Args:
        views: Each with the path of its picture, without the ending.
    """
    # A file's chance is its own, so that adding a file changes no other.
    chance = random.Random(f"{name} {seed}")
    return [record for key, view in views for record in FILES[name](key, view, chance)]


def _write_caption(source: str) -> Callable[[str, View, random.Random], list[Record]]:
    def write(key: str, view: View, chance: random.Random) -> list[Record]:
        return [_build(key, [(prompts.CAPTION, SOURCES[source](view, chance))])]

    return write


def _write_mixture(key: str, view: View, chance: random.Random) -> list[Record]:
    """Questions about a view; about one of DETAIL_EVERY, an imagined description, too."""
    facts = list_facts(view, chance.choice(view.things))
    turns = [_ask(fact, chance) for fact in chance.sample(facts, _TURNS)]
    records = [_build(key, turns)]
    if int(key.rpartition("/")[2]) % DETAIL_EVERY == 0:
        described = [(DETAIL_QUESTION, write_imagined(view, chance))]
        records.append(_build(key, described, name=f"{key}-detail"))
    return records


def _write_talk(key: str, view: View, chance: random.Random) -> list[Record]:
    """A description without a picture and questions about it: what a language model knows without
    seeing. In half of the talks the person gives the description, in the others the model does."""
    things = chance.choices(view.things, k=_TALK_TURNS)
    turns = [_ask(chance.choice(list_facts(view, thing)), chance) for thing in things]
    description = write_exact(view, chance)
    if chance.random() < _OWN_DESCRIPTIONS:
        turns.insert(0, (TALK_QUESTION, description))
    else:
        turns[0] = (f"{description}\n{turns[0][0]}", turns[0][1])
    record = _build(key, turns)
    del record["image"]
    record["conversations"][0]["value"] = turns[0][0]
    return [record]


def _ask(fact: Fact, chance: random.Random) -> Turn:
    """A question in one of the three forms, as the benchmarks ask it."""
    form = chance.choice(("open", "letter", "yes or no"))
    if form == "open":
        return f"{fact.question}\n{SHORT}", fact.answer
    if form == "yes or no":
        is_yes = chance.random() < 0.5
        return f"{fact.draw_pair(chance)[not is_yes]}\n{SHORT}", "Yes" if is_yes else "No"
    options = fact.draw_options(chance)
    shown = chance.sample(options, len(options))
    lines = [f"{letter}. {text}" for letter, text in zip("ABCD", shown, strict=False)]
    question = "\n".join([fact.question, *lines, LETTER])
    return question, "ABCD"[shown.index(fact.answer)]


def _build(key: str, turns: list[Turn], name: str = "") -> Record:
    values = []
    for number, (question, answer) in enumerate(turns):
        mark = f"{IMAGE}\n" if number == 0 else ""
        values.append({"from": "human", "value": mark + question})
        values.append({"from": "gpt", "value": answer})
    return {"id": name or key, "image": f"{key}.jpg", "conversations": values}


FILES: dict[str, Callable[[str, View, random.Random], list[Record]]] = {
    **{source: _write_caption(source) for source in SOURCES},
    "mixture": _write_mixture,
    "talk": _write_talk,
}
"""Writers of a view's records by the name of their file."""


def build_corpus() -> list[str]:
    """Texts to train a tokenizer on, with every word of views, prompts and templates."""
    corpus = [VICUNA_V1.render(prompts.CAPTION).replace(IMAGE, "")]
    chance = random.Random(0)
    views = invent_views(0)
    for _ in range(_CORPUS_VIEWS):
        view, _ = next(views)
        corpus += [f" {write(view, chance)}" for write in SOURCES.values()]
        for fact in list_facts(view, chance.choice(view.things)):
            corpus += [f" {text}" for text in _ask(fact, chance)]
    return corpus
