"""The stages after the images: checks, benchmark and records.

What they need of rooms beside this one is handed to them: captions, word forms, leaks.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import require_plan_head
from s4v_core.synthesis.agreement import (
    FindForms,
    compare_images,
    count_agreement,
    read_checks,
    write_checks,
)
from s4v_core.synthesis.assembly import choose_split, filter_entries, write_records
from s4v_core.synthesis.entries import Entry
from s4v_core.synthesis.images import PlacedEntry, list_inputs, place_entries, read_in_batches
from s4v_core.synthesis.job import SynthesisJob
from s4v_core.synthesis.production import StageResult, admit_entries, place, read_abilities
from s4v_core.synthesis.text_stages import cut_to_count, write_questions
from s4v_core.synthesis.verification import (
    IMAGES,
    QUESTIONS,
    REFUSED,
    RIGHT,
    WRONG_IMAGE,
    read_marks,
)
from s4v_core.synthesis.waves import read_wave_rows
from s4v_core.synthesis.workers import choose_writer
from s4v_core.synthesis.writing import CONTRACTS

FindLeaks = Callable[[str, Sequence[tuple[str, str]]], Collection[int]]
"""The places of the (prompt, answer) pairs that answer a question of a benchmark's file."""


def list_image_inputs(job: SynthesisJob) -> tuple[str, ...]:
    """Where the images of a job lie."""
    return list_inputs(place(job, "images"), job.images)


def place_job_entries(job: SynthesisJob) -> list[PlacedEntry]:
    """The entries of a job with their images.

    Raises:
        InputError: There are no images yet.
    """
    inputs = list_image_inputs(job)
    if not inputs:
        raise InputError(job.output, "holds no images; run the stage images first")
    return place_entries(admit_entries(job)[0], inputs, drawn=not job.images)


def run_checks(job: SynthesisJob, captions: str, find_forms: FindForms) -> StageResult:
    """Compare the captions of all images with their prompts.

    Args:
        captions: Folder of the caption run over the images.
    """
    placed = place_job_entries(job)
    images = [
        (image_id, one.entry.ability, prompt)
        for one in placed
        if not one.problem
        for image_id, prompt in zip(one.image_ids, one.entry.prompts, strict=True)
    ]
    checks = compare_images(images, _read_captions(captions), find_forms)
    write_checks(place(job, "checks"), checks)
    agreement = count_agreement(checks)
    shares = [f"{name} {good / total:.1%}" for name, (good, total) in sorted(agreement.items())]
    unchecked = sum(one.agrees is None for one in checks)
    good = sum(bool(one.agrees) for one in checks)
    text = f"{good:,} of {len(checks):,} images agree with their prompts ({', '.join(shares)})"
    text += f"; {unchecked:,} have no caption" if unchecked else ""
    return StageResult("checks", 0, text)


def run_benchmark(job: SynthesisJob, known: Collection[str]) -> StageResult:
    """Have questions written about images of testing prompts, in the layout of the benchmark of
    keywords.

    Questions that people refused make room for others.

    Args:
        known: The abilities that the benchmark has.
    """
    folder = place(job, "benchmark")
    abilities, marks = read_abilities(job), read_marks(folder)
    chosen = {n: one for n, one in abilities.items() if n in known and one.images == 1}
    agreement = _read_agreement(job)
    usable = {
        one.entry.entry_id: one
        for one in place_job_entries(job)
        if not one.problem
        and one.entry.ability in chosen
        and marks.get(one.entry.entry_id) not in REFUSED
        and choose_split(one.entry.text, job.test_share) == "test"
        and (job.keep == "all" or all(agreement.get(image) for image in one.image_ids))
    }
    entries = cut_to_count([one.entry for one in usable.values()], job.benchmark_count)
    if not entries and not marks:  # with marks, what was refused has to leave the file
        return StageResult("benchmark", 0, "no questions: no ability has images for testing")
    stage = write_questions(storage.join(folder, "rows"), chosen, entries, choose_writer(job))
    if stage.exit_code:
        return StageResult("benchmark", stage.exit_code, stage.as_text())
    wanted = {one.entry_id for one in entries}
    if job.verified_only:
        wanted = {name for name in wanted if marks.get(name) == RIGHT}
    count = _write_questions(folder, usable, wanted, marks)
    short = [name for name in abilities if name not in chosen]
    text = f"{storage.join(folder, QUESTIONS)}: {sum(count.values()):,} questions"
    text += f"; the benchmark has no {', '.join(short)}" if short else ""
    if marks:
        refused = sum(mark in REFUSED for mark in marks.values())
        text += f"; people verified {count[True]:,} of them, and refused {refused:,} others"
    return StageResult("benchmark", 0, "\n".join(filter(None, (stage.as_text(), text))))


def run_records(job: SynthesisJob, find_leaks: FindLeaks) -> StageResult:
    """Write the records."""
    placed = place_job_entries(job)
    left_out: Counter[str] = Counter()
    marks = read_marks(place(job, "benchmark"))
    ruled_out = {name: "refused_image" for name, mark in marks.items() if mark == WRONG_IMAGE}
    ruled_out |= _find_leaked(job, [one.entry for one in placed], find_leaks)
    kept = filter_entries(
        placed,
        _read_agreement(job),
        job.keep,
        ruled_out,
        job.count,
        left_out,
    )
    result = write_records(place(job, "records"), kept, job.test_share)
    result.left_out.update(left_out)
    summary = {
        "records": dict(result.records),
        "by_ability": dict(result.by_ability),
        "left_out": dict(result.left_out),
    }
    storage.replace_json(place(job, "records/summary.json"), summary)
    return StageResult("records", 0, result.as_text())


def _find_leaked(
    job: SynthesisJob, entries: Sequence[Entry], find_leaks: FindLeaks
) -> dict[str, str]:
    pairs = [(entry.text, entry.answer) for entry in entries]
    places = {at for benchmark in job.against for at in find_leaks(benchmark, pairs)}
    return {entries[at].entry_id: "answers_benchmark" for at in places}


def _read_agreement(job: SynthesisJob) -> dict[str, bool | None]:
    return {one.image_id: one.agrees for one in read_checks(place(job, "checks"))}


def _read_captions(output: str) -> dict[str, str]:
    units = caption_units(output, require_plan_head(output).settings)
    rows = (row for unit in sorted(units.list_done()) for row in units.read(unit).to_pylist())
    return {row["image_id"]: row["caption"] for row in rows if row["status"] == "ok"}


def _write_questions(
    folder: str,
    usable: Mapping[str, PlacedEntry],
    chosen: Collection[str],
    marks: Mapping[str, str],
) -> Counter[bool]:
    """Write the questions and the images that they name; returns how many people verified, and how
    many they did not."""
    rows = [
        row
        for row in read_wave_rows(storage.join(folder, "rows"), CONTRACTS["questions"])
        if row["status"] == "ok" and row["row_id"] in chosen
    ]
    lines: list[str] = []
    count: Counter[bool] = Counter()
    for row, (one, contents) in zip(
        rows, read_in_batches(usable[row["row_id"]] for row in rows), strict=True
    ):
        if not isinstance(contents[0], bytes):
            continue
        storage.create(storage.join(folder, IMAGES, one.names[0]), contents[0])
        is_verified = marks.get(row["row_id"]) == RIGHT
        lines.append(_format_question(row, one.names[0], is_verified))
        count[is_verified] += 1
    storage.replace(storage.join(folder, QUESTIONS), "".join(lines).encode())
    return count


def _format_question(row: Mapping[str, object], image: str, is_verified: bool) -> str:
    question = {
        "question_id": row["row_id"],
        "image": image,
        "question": row["question"],
        "ability": row["ability"],
        "source": "generated",
        "keywords": json.loads(str(row["keywords"])),
        "answer": row["answer"],
        "verified": is_verified,
    }
    return json.dumps(question, ensure_ascii=False) + "\n"
