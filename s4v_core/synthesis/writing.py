"""Asking a writer as a task of the flow: prompts, dialogues and questions, one row each."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from s4v_core.engines.ladder import climb_ladder
from s4v_core.engines.requests import Generator, Picture, Request
from s4v_core.engines.sampling import ClientSampling, SamplingConfig
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.records.contract import Contract, Words, result_schema
from s4v_core.synthesis.abilities import Ability, Example
from s4v_core.synthesis.completions import complete, list_stops
from s4v_core.synthesis.parsing import (
    Written,
    find_pair,
    parse_description,
    parse_prompts,
    parse_question,
)
from s4v_core.synthesis.templates import ask_for_description, ask_for_prompts, ask_for_question

WritingKind = Literal["prompts", "dialogues", "questions"]
WriterFormat = Literal["chat", "completion"]

_LONGEST_KEPT = 2000
"""Characters of a rejected text that its row keeps."""

_SMALL = "a an the of in on at to and or with through over under is are"
_SMALL_WORDS = frozenset(_SMALL.split())


def _make_contract(kind: WritingKind, rows: str, answers: str) -> Contract:
    return Contract(
        folder=kind,
        schema=result_schema(
            "row_id",
            pa.field("ability", pa.string(), nullable=False),
            # The image prompts, one per image of the record. Null in a row of kind prompts that is
            # not ok.
            pa.field("prompts", pa.list_(pa.string())),
            pa.field("question", pa.string()),
            pa.field("answer", pa.string()),
            # Alternatives of words that an answer of the benchmark must name, as JSON.
            pa.field("keywords", pa.string()),
            # Keywords that the writer could choose from.
            pa.field("offered", pa.list_(pa.string())),
            # Names of the examples that the writer was shown (examples.json has their texts).
            pa.field("examples", pa.list_(pa.string()), nullable=False),
            # What the writer said, where it was rejected.
            pa.field("text", pa.string()),
            pa.field("reason_detail", pa.string()),
            pa.field("model", pa.string(), nullable=False),
            pa.field("engine", pa.string(), nullable=False),
            pa.field("sampling", pa.string(), nullable=False),
            pa.field("output_tokens", pa.int32()),
        ),
        key="row_id",
        sums=("attempts", "output_tokens"),
        statistics=("row_id", "ability", "status", "reason"),
        words=Words(rows=rows, made="written", answers=answers),
    )


CONTRACTS: Mapping[WritingKind, Contract] = {
    "prompts": _make_contract("prompts", "requests", "prompts"),
    "dialogues": _make_contract("dialogues", "dialogues", "descriptions"),
    "questions": _make_contract("questions", "questions", "questions"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A row on its way to the writer."""

    row_id: str
    ability: str
    prompts: tuple[str, ...] = ()
    question: str = ""
    offered: tuple[str, ...] = ()


@dataclass(frozen=True)
class WriteTask(Task[Asked]):
    """Asks for one kind of text.

    Attributes:
        examples: What writers are shown, by ability.
        samplings: The first sampling, and those of the attempts after a rejection.
        model: The writer, as rows name it.
        style: Whether the writer is told what to do, or only continues a list of examples.
    """

    kind: WritingKind
    abilities: Mapping[str, Ability]
    examples: Mapping[str, tuple[Example, ...]]
    samplings: tuple[SamplingConfig, ...]
    model: str
    style: WriterFormat = "chat"

    @property
    def contract(self) -> Contract:  # type: ignore[override]
        return CONTRACTS[self.kind]

    def prepare(self, planned: dict[str, Any], content: bytes | str | None) -> Prepared[Asked]:
        row = json.loads(planned["payload"])
        return Prepared(
            Asked(
                planned["row_id"],
                row["ability"],
                tuple(row.get("prompts", ())),
                row.get("question", ""),
                tuple(row.get("offered", ())),
            )
        )

    async def answer(self, about: Asked, pictures: tuple[Picture, ...], engine: Generator) -> Row:
        parse = self._choose_parser(about)
        request = self._make_request(about)
        stops = list_stops(self.kind) if self.style == "completion" else ()
        samplings = [_add_stops(one, stops) for one in self.samplings]
        ending = await climb_ladder(engine, request, samplings, _ParserGate(parse))
        said = ending.answer
        row = self._make_row(about, ending.status, ending.reason) | {
            "attempts": ending.attempts,
            "engine": engine.version,
            "sampling": samplings[ending.rung - 1].model_dump_json(exclude_defaults=True),
            "output_tokens": said.output_tokens if said else None,
            "reason_detail": said.reason_detail if said else None,
        }
        text = said.text if said else None
        found = parse(text) if text is not None and ending.status == "ok" else None
        if isinstance(found, Written):
            return row | self._describe(about, found)
        return row | {"text": text[:_LONGEST_KEPT] if text else None}

    def fail(self, about: Asked, reason: str) -> Row:
        return self._make_row(about, "error", reason)

    def _make_request(self, about: Asked) -> Request:
        ability, shown = self.abilities[about.ability], self.examples[about.ability]
        if self.style == "completion":
            text, prefill = complete(self.kind, about.prompts, about.offered, shown)
            return Request(about.row_id, about.row_id, (), text, is_raw=True, prefill=prefill)
        if self.kind == "prompts":
            text = ask_for_prompts(ability, about.offered, shown)
        elif self.kind == "dialogues":
            text = ask_for_description(ability, about.prompts, shown)
        else:
            text = ask_for_question(ability, about.prompts, shown)
        return Request(about.row_id, about.row_id, (), text)

    def _choose_parser(self, about: Asked) -> Callable[[str], Written | str]:
        if self.kind == "prompts":
            images = self.abilities[about.ability].images
            shown = [one for e in self.examples[about.ability] for one in e.prompts]
            return lambda text: parse_prompts(text, images, shown)
        if self.kind == "dialogues":
            return lambda text: parse_description(text, about.prompts)
        return lambda text: _parse_with_keywords(text, about.prompts)

    def _describe(self, about: Asked, found: Written) -> Row:
        row: Row = {"prompts": list(found.prompts), "answer": found.answer or None}
        if self.kind == "questions":
            words = find_reference_words(found)
            row |= {"question": found.question, "keywords": json.dumps([words])}
        return row

    def _make_row(self, about: Asked, status: str, reason: str | None) -> Row:
        return {
            "row_id": about.row_id,
            "ability": about.ability,
            "prompts": list(about.prompts) or None,
            "question": about.question or None,
            "answer": None,
            "keywords": None,
            "offered": list(about.offered) or None,
            "examples": [one.example_id for one in self.examples[about.ability]],
            "text": None,
            "reason_detail": None,
            "model": self.model,
            "engine": "",
            "sampling": "",
            "output_tokens": None,
            "status": status,
            "reason": reason,
            "attempts": 0,
        }


@dataclass(frozen=True, slots=True)
class _ParserGate:
    """A parser as the ladder knows it."""

    parse: Callable[[str], Written | str]

    def judge(self, text: str, finish_reason: str | None, prompt: str) -> str | None:
        if finish_reason == "length":
            return "truncated"
        found = self.parse(text)
        return found if isinstance(found, str) else None


def find_reference_words(found: Written) -> list[str]:
    """The words by which an answer is known to be right: yes or no; or the bracketed words that
    the answer names, if possible those that the question does not give away."""
    opening = re.match(r"\s*(yes|no)\b", found.answer, re.IGNORECASE)
    if opening:
        return [opening[1].casefold()]
    pairs = " ".join(map(find_pair, found.prompts))
    words = [one for one in dict.fromkeys(_split_words(pairs)) if one not in _SMALL_WORDS]
    answered = set(_split_words(found.answer))
    asked = set(_split_words(found.question))
    named = [one for one in words if one in answered]
    return [one for one in named if one not in asked] or named


def _parse_with_keywords(text: str, prompts: tuple[str, ...]) -> Written | str:
    found = parse_question(text, prompts)
    if isinstance(found, Written) and not find_reference_words(found):
        return "names_no_keyword"
    return found


def _split_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _add_stops(sampling: SamplingConfig, stops: tuple[str, ...]) -> SamplingConfig:
    if not stops:
        return sampling
    return ClientSampling(**dict(sampling), stop=stops)
