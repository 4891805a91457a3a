"""Runs the stages of a synthesis, each resumable by itself. They hand on files of OUTPUT:

abilities.json, prompts.json, dialogues.json, entries.json (distinct, at most --count of each
ability), images, checks, benchmark, records.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from s4v_core import storage
from s4v_core.runs.outcome import INCOMPLETE_INPUT, NO_ANSWERS
from s4v_core.synthesis.abilities import (
    Ability,
    choose_abilities,
    load_abilities,
    write_abilities,
)
from s4v_core.synthesis.demo_world import list_demo_abilities
from s4v_core.synthesis.diversity import Distinct
from s4v_core.synthesis.drawing import draw_images
from s4v_core.synthesis.entries import Entry, read_entries, write_entries
from s4v_core.synthesis.job import SCRIPTED, SynthesisJob
from s4v_core.synthesis.text_stages import (
    cut_to_count,
    read_dialogues,
    sort_entries,
    sort_prompts,
    write_dialogues,
    write_prompts,
)
from s4v_core.synthesis.waves import read_wave_rows
from s4v_core.synthesis.workers import choose_job_painter, choose_writer, count_engines
from s4v_core.synthesis.writing import CONTRACTS

SCRIPTED_NOTICE = (
    "The writer is a script that knows drawn scenes; no language model wrote this. "
    "--writer smollm2 is a small one."
)


@dataclass(frozen=True, slots=True)
class StageResult:
    """How a stage ended, for people and for scripts."""

    stage: str
    exit_code: int
    text: str


def place(job: SynthesisJob, name: str) -> str:
    """A file or folder of the output."""
    return storage.join(job.output, name)


def read_abilities(job: SynthesisJob) -> dict[str, Ability]:
    """The abilities that a job is about; the first call writes them to OUTPUT/abilities.json.

    Raises:
        ConfigError: An ability is named that nothing is known of.
    """
    uri = place(job, "abilities.json")
    if storage.stat(uri) is None:
        known = list_demo_abilities() if job.demo_world else load_abilities(job.abilities)
        choose_abilities(known, job.ability)  # nothing is written for a wrong name
        write_abilities(uri, known)
    return choose_abilities(load_abilities(uri), job.ability)


def run_keywords(job: SynthesisJob) -> StageResult:
    """Write down what writers are told about the abilities."""
    abilities = read_abilities(job)
    total = sum(len(one.keywords) for one in abilities.values())
    text = f"{place(job, 'abilities.json')}: {len(abilities)} abilities, {total:,} keywords"
    return StageResult("keywords", 0, text)


def run_prompts(job: SynthesisJob) -> StageResult:
    """Have image prompts written, until every ability has enough distinct ones."""
    abilities, folder = read_abilities(job), place(job, "prompts")
    wanted = _add_spare(job)
    stage = write_prompts(
        folder, abilities, wanted, choose_writer(job), job.near, job.prompt_examples
    )
    rows = list(read_wave_rows(folder, CONTRACTS["prompts"]))
    kept, distinct = sort_prompts(rows, job.near)
    entries = cut_to_count(kept, wanted)
    lines = [stage.as_text(), _describe_distinct(distinct)]
    if stage.exit_code or not entries:
        return StageResult("prompts", stage.exit_code or NO_ANSWERS, _join(lines))
    write_entries(place(job, "prompts.json"), entries)
    have = Counter(entry.ability for entry in entries)
    short = [f"{name} {have[name]}" for name in abilities if have[name] < job.count]
    lines.append(f"{place(job, 'prompts.json')}: {len(entries):,} distinct prompts")
    if short:
        lines.append(
            f"fewer prompts than {job.count} of {', '.join(short)}: the writer has no more; more "
            "keywords, a higher --sampling.temperature or a higher --near may help"
        )
    if job.writer == SCRIPTED:
        lines.append(SCRIPTED_NOTICE)
    return StageResult("prompts", INCOMPLETE_INPUT if short else 0, _join(lines))


def run_dialogues(job: SynthesisJob) -> StageResult:
    """Have an answer written for every prompt."""
    entries = read_entries(job.prompts or place(job, "prompts.json"))
    abilities = read_abilities(job)
    entries = [one for one in entries if one.ability in abilities]
    folder = place(job, "dialogues")
    stage = write_dialogues(folder, abilities, entries, choose_writer(job), job.dialogue_examples)
    found = read_dialogues(folder, entries)
    exit_code = stage.exit_code or (0 if found else NO_ANSWERS)
    if not exit_code:
        write_entries(place(job, "dialogues.json"), found)
    text = f"{place(job, 'dialogues.json')}: {len(found):,} of {len(entries):,} prompts described"
    return StageResult("dialogues", exit_code, _join([stage.as_text(), text]))


def admit_entries(job: SynthesisJob, is_new: bool = False) -> tuple[list[Entry], str]:
    """The entries that images are drawn for: distinct ones, and a sentence on the others.

    Args:
        is_new: Whether they are chosen again, though they were before.
    """
    uri = place(job, "entries.json")
    if not is_new and storage.stat(uri) is not None:
        return read_entries(uri), ""
    entries = read_entries(job.dialogues or place(job, "dialogues.json"))
    if job.ability:
        entries = [one for one in entries if one.ability in job.ability]
    kept, distinct = sort_entries(entries, job.near)
    chosen = cut_to_count(kept, _add_spare(job))
    write_entries(uri, chosen)
    return chosen, describe_duplicates(entries, distinct)


def run_images(job: SynthesisJob) -> StageResult:
    """Draw the images of all entries, and write them to tar shards."""
    entries, text = admit_entries(job, is_new=True)
    folder = place(job, "images")
    stage = draw_images(
        folder,
        entries,
        choose_job_painter(job),
        count_engines(job),
        job.unit_size,
    )
    count = sum(outcome.counts.ok for outcome in stage.outcomes)
    text = _join([text, stage.as_text(), f"{folder}: {count:,} images"])
    return StageResult("images", stage.exit_code or (0 if count else NO_ANSWERS), text)


def describe_duplicates(entries: Sequence[Entry], distinct: Distinct) -> str:
    """A sentence on rows that share a prompt, and on near-duplicates."""
    texts = Counter((entry.ability, entry.text) for entry in entries)
    equal = sum(twin.similarity == 1.0 for twin in distinct.twins)
    most = max(texts.values(), default=0)
    return (
        f"{len(entries):,} rows, {len(texts):,} prompts, at most {most} rows of one prompt; "
        f"dropped before drawing: {equal:,} of an equal prompt, "
        f"{len(distinct.twins) - equal:,} of a near one"
    )


def _describe_distinct(distinct: Distinct) -> str:
    total = len(distinct.kept) + len(distinct.twins)
    return f"{len(distinct.twins):,} of {total:,} prompts are near-duplicates of others"


def _add_spare(job: SynthesisJob) -> int:
    return job.count + round(job.count * job.spare)


def _join(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if line)


RUN_STAGE: Mapping[str, Callable[[SynthesisJob], StageResult]] = {
    "keywords": run_keywords,
    "prompts": run_prompts,
    "dialogues": run_dialogues,
    "images": run_images,
}
"""The stages that need nothing of other rooms."""
