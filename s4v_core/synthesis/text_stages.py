"""The stages that ask a writer: prompts, dialogues, and the questions of a benchmark."""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.flow.spec import Engines
from s4v_core.flow.task import Row
from s4v_core.synthesis.abilities import Ability, Example
from s4v_core.synthesis.curation import join_curated, list_hand_written
from s4v_core.synthesis.diversity import Distinct, find_distinct
from s4v_core.synthesis.entries import Entry, fill_in
from s4v_core.synthesis.waves import PlannedRow, StageRun, list_planned_keys, read_wave_rows
from s4v_core.synthesis.waves import run_waves as run_stage_waves
from s4v_core.synthesis.writing import CONTRACTS, WriterFormat, WriteTask, WritingKind

FIRST_WAVE = 32
"""Rows per ability that are written with the hand-written examples alone."""

_OFFERED = 8
"""Keywords that a request names."""

_MOST_WAVES = 12
_LEAST_YIELD = 0.2


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer and how it is asked.

    Attributes:
        name: The model, as rows name it.
        examples: Files of curated examples by kind, in place of a choice.
    """

    name: str
    engine: EngineSpec
    samplings: tuple[SamplingConfig, ...]
    style: WriterFormat = "chat"
    engines: Engines | None = None
    unit_size: int = 64

    def run(
        self,
        kind: WritingKind,
        output: str,
        abilities: Mapping[str, Ability],
        plan_wave: Callable[[int], Sequence[PlannedRow]],
        given: str | None,
    ) -> StageRun:
        """Run a stage; its later waves are shown the best of the first."""

        def make_task(wave: int) -> WriteTask:
            examples: dict[str, tuple[Example, ...]] = list_hand_written(abilities)
            if wave > 1:
                first = read_wave_rows(output, CONTRACTS[kind], before=2)
                examples = join_curated(output, abilities, first, given)
            return WriteTask(kind, abilities, examples, self.samplings, self.name, self.style)

        settings = {
            "writer": self.name,
            "style": self.style,
            "samplings": [one.model_dump() for one in self.samplings],
        }
        return run_stage_waves(
            output,
            plan_wave,
            make_task,
            self.engine,
            settings,
            most_waves=_MOST_WAVES if kind == "prompts" else 1000,
            engines=self.engines,
            unit_size=self.unit_size,
        )


def write_prompts(
    output: str,
    abilities: Mapping[str, Ability],
    count: int,
    writer: Writer,
    near: float,
    given: str | None = None,
) -> StageRun:
    """Have prompts written until every ability has so many distinct ones, or waves run out."""
    contract = CONTRACTS["prompts"]

    def plan_wave(wave: int) -> list[PlannedRow]:
        rows = list(read_wave_rows(output, contract, before=wave))
        kept, _ = sort_prompts(rows, near)
        have = Counter(entry.ability for entry in kept)
        asked = Counter(row["ability"] for row in rows)
        planned: list[PlannedRow] = []
        for name, ability in abilities.items():
            missing = count - have[name]
            if missing <= 0:
                continue
            share = max(have[name] / asked[name], _LEAST_YIELD) if asked[name] else 1.0
            wanted = min(count, FIRST_WAVE) if wave == 1 else math.ceil(missing / share)
            numbers = range(asked[name], asked[name] + wanted)
            planned += [_plan_prompt(ability, number, wave) for number in numbers]
        return planned

    return writer.run("prompts", output, abilities, plan_wave, given)


def _plan_prompt(ability: Ability, number: int, wave: int) -> PlannedRow:
    row_id = f"{ability.name}-{wave:02d}-{number:06d}"
    order = list(ability.keywords)
    random.Random(ability.name).shuffle(order)
    target = order[number % len(order)]  # in turn, so that none is forgotten
    others = [one for one in order if one != target]
    offered = [target, *random.Random(row_id).sample(others, min(_OFFERED - 1, len(others)))]
    payload = json.dumps({"ability": ability.name, "offered": offered})
    return {"row_id": row_id, "payload": payload, "source": ability.name}


def sort_prompts(rows: Sequence[Row], near: float) -> tuple[list[Entry], Distinct]:
    """The distinct prompts of a stage's rows, and which were near to others."""
    entries = [
        Entry(row["row_id"], row["ability"], tuple(row["prompts"]))
        for row in rows
        if row["status"] == "ok"
    ]
    return sort_entries(entries, near)


def sort_entries(entries: Sequence[Entry], near: float) -> tuple[list[Entry], Distinct]:
    """The entries whose prompts are distinct within their ability, and the near-duplicates."""
    kept: list[Entry] = []
    whole = Distinct()
    for name in dict.fromkeys(entry.ability for entry in entries):
        mine = {entry.entry_id: entry for entry in entries if entry.ability == name}
        found = find_distinct(((key, one.text) for key, one in mine.items()), near)
        kept += [mine[key] for key in found.kept]
        whole.kept += found.kept
        whole.twins += found.twins
    return kept, whole


def cut_to_count(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The first entries of each ability."""
    have: Counter[str] = Counter()
    kept: list[Entry] = []
    for entry in entries:
        have[entry.ability] += 1
        if have[entry.ability] <= count:
            kept.append(entry)
    return kept


def write_dialogues(
    output: str,
    abilities: Mapping[str, Ability],
    entries: Sequence[Entry],
    writer: Writer,
    given: str | None = None,
) -> StageRun:
    """Have a description written for every entry."""
    return _write_about(
        "dialogues",
        output,
        abilities,
        entries,
        writer,
        given,
        lambda e: draw_question(e, abilities),
    )


def write_questions(
    output: str,
    abilities: Mapping[str, Ability],
    entries: Sequence[Entry],
    writer: Writer,
    given: str | None = None,
) -> StageRun:
    """Have a benchmark's question and answer written for every entry."""
    return _write_about("questions", output, abilities, entries, writer, given, lambda entry: "")


def _write_about(
    kind: WritingKind,
    output: str,
    abilities: Mapping[str, Ability],
    entries: Sequence[Entry],
    writer: Writer,
    given: str | None,
    find_question: Callable[[Entry], str],
) -> StageRun:
    def plan_wave(wave: int) -> list[PlannedRow]:
        planned = list_planned_keys(output, CONTRACTS[kind])
        new = [entry for entry in entries if entry.entry_id not in planned]
        chosen = cut_to_count(new, FIRST_WAVE) if wave == 1 else new
        return [_plan_about(entry, find_question(entry)) for entry in chosen]

    return writer.run(kind, output, abilities, plan_wave, given)


def _plan_about(entry: Entry, question: str) -> PlannedRow:
    about: dict[str, Any] = {"ability": entry.ability, "prompts": entry.prompts}
    payload = json.dumps(about | {"question": question})
    return {"row_id": entry.entry_id, "payload": payload, "source": entry.ability}


def draw_question(entry: Entry, abilities: Mapping[str, Ability]) -> str:
    """A question of the ability's pool; the same for the same entry."""
    pool = abilities[entry.ability].pool
    digest = hashlib.sha256(entry.entry_id.encode()).digest()
    return pool[int.from_bytes(digest[:4], "big") % len(pool)]


def read_dialogues(output: str, entries: Sequence[Entry]) -> list[Entry]:
    """The entries whose descriptions were written and accepted."""
    rows = {
        row["row_id"]: row
        for row in read_wave_rows(output, CONTRACTS["dialogues"])
        if row["status"] == "ok"
    }
    return [
        fill_in(entry, rows[entry.entry_id]["question"] or "", rows[entry.entry_id]["answer"])
        for entry in entries
        # A file of prompts may have been edited since; no dialogue is about another prompt.
        if entry.entry_id in rows and tuple(rows[entry.entry_id]["prompts"]) == entry.prompts
    ]
