"""report.html of a synthesis: images with prompts and dialogues by ability, agreement, rejects and
diversity, for people who would rather look than read."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from s4v_core import storage
from s4v_core.flow.task import Row
from s4v_core.pages.charts import curves, escaped
from s4v_core.pages.frame import build_page
from s4v_core.pages.thumbnails import make_thumbnail, open_thumbnail_decoder
from s4v_core.runs.derived_files import write_derived
from s4v_core.synthesis.abilities import Ability
from s4v_core.synthesis.agreement import Check, count_agreement, read_checks
from s4v_core.synthesis.diversity import measure_coverage
from s4v_core.synthesis.entries import Entry, read_entries
from s4v_core.synthesis.finishing import list_image_inputs
from s4v_core.synthesis.images import PlacedEntry, place_entries, read_in_batches
from s4v_core.synthesis.job import SCRIPTED, SynthesisJob
from s4v_core.synthesis.painting import PAINTED
from s4v_core.synthesis.production import SCRIPTED_NOTICE, place, read_abilities
from s4v_core.synthesis.text_stages import sort_prompts
from s4v_core.synthesis.waves import count_reasons, read_wave_rows
from s4v_core.synthesis.writing import CONTRACTS

REPORT_NAMES = ("report.html", "synthesis_report.html")

_SHOWN = 6
"""Entries of each ability that are shown."""

_SHOWN_MISMATCHES = 12
_SHOWN_KEYWORDS = 12


@dataclass(frozen=True, slots=True)
class _Tables:
    """Everything that the report reads of an output."""

    abilities: Mapping[str, Ability]
    prompts: Sequence[Row]
    entries: Sequence[PlacedEntry]
    checks: Sequence[Check]
    reasons: Mapping[str, Mapping[str, int]]
    records: Mapping[str, object]


def write_report(job: SynthesisJob) -> str | None:
    """Write OUTPUT/report.html again.

    Returns:
        Its URI; None if files of others have its names.
    """
    page = build_page(
        "Synthesis",
        storage.base_name(job.output),
        _build_body(job, _read_tables(job)),
        notice=SCRIPTED_NOTICE if job.writer == SCRIPTED and job.demo_world else "",
    )
    return write_derived(job.output, REPORT_NAMES, page.encode("utf-8", "replace"))


def _read_tables(job: SynthesisJob) -> _Tables:
    places = {
        "prompts": ("prompts", CONTRACTS["prompts"]),
        "dialogues": ("dialogues", CONTRACTS["dialogues"]),
        "images": ("images", PAINTED),
        "benchmark": ("benchmark/rows", CONTRACTS["questions"]),
    }
    summary = place(job, "records/summary.json")
    return _Tables(
        abilities=read_abilities(job),
        prompts=list(read_wave_rows(place(job, "prompts"), CONTRACTS["prompts"])),
        entries=_place_entries(job),
        checks=read_checks(place(job, "checks")),
        reasons={
            stage: count_reasons(place(job, folder), contract)
            for stage, (folder, contract) in places.items()
        },
        records=json.loads(storage.read(summary)) if storage.stat(summary) else {},
    )


def _place_entries(job: SynthesisJob) -> list[PlacedEntry]:
    uri = place(job, "entries.json")
    inputs = list_image_inputs(job)
    if storage.stat(uri) is None or not inputs:
        return []
    shown: Counter[str] = Counter()
    entries: list[Entry] = []
    for entry in read_entries(uri):
        shown[entry.ability] += 1
        if shown[entry.ability] <= _SHOWN:
            entries.append(entry)
    return place_entries(entries, inputs, drawn=not job.images)


def _build_body(job: SynthesisJob, tables: _Tables) -> str:
    parts = [
        _build_summary(job, tables),
        _build_rejects(tables.reasons),
        _build_diversity(job, tables),
        *_build_galleries(tables),
        _build_mismatches(tables.checks),
    ]
    return "".join(filter(None, parts))


def _build_summary(job: SynthesisJob, tables: _Tables) -> str:
    agreement = count_agreement(tables.checks)
    made = Counter(tables.records.get("by_ability", {}))  # type: ignore[call-overload]
    prompts = Counter(row["ability"] for row in tables.prompts if row["status"] == "ok")
    names = [name for name in tables.abilities if name in {*prompts, *made, *agreement}]
    names += [name for name in {*made, *agreement} if name not in names]
    rows = []
    for name in names:
        good, total = agreement.get(name, (0, 0))
        share = f"{good / total:.1%} of {total:,}" if total else "not checked"
        rows.append((name, f"{prompts[name]:,}", share, f"{made[name]:,}"))
    head = ("ability", "prompts", "images that agree", "records")
    lines = [f"<p>Writer {escaped(job.writer)}, painter {escaped(job.painter)}.</p>"]
    left_out = tables.records.get("left_out")
    if isinstance(left_out, dict) and left_out:
        found = ", ".join(f"{reason} {count:,}" for reason, count in left_out.items())
        lines.append(f"<p>Left out of the records: {escaped(found)}.</p>")
    return f"<section><h2>By ability</h2>{_build_table(head, rows)}{''.join(lines)}</section>"


def _build_rejects(reasons: Mapping[str, Mapping[str, int]]) -> str:
    rows = [
        (stage, reason, f"{count:,}")
        for stage, found in reasons.items()
        for reason, count in found.items()
    ]
    if not rows:
        return "<section><h2>Rejects</h2><p>Nothing was rejected.</p></section>"
    table = _build_table(("stage", "reason", "rows"), rows)
    return f"<section><h2>Rejects</h2>{table}</section>"


def _build_diversity(job: SynthesisJob, tables: _Tables) -> str:
    _, distinct = sort_prompts(tables.prompts, job.near)
    twins = {twin.key: twin.of for twin in distinct.twins}
    lines, named, fresh = [], [], []
    for at, (name, ability) in enumerate(tables.abilities.items()):
        mine = [
            (row["row_id"], " | ".join(row["prompts"]))
            for row in tables.prompts
            if row["status"] == "ok" and row["ability"] == name
        ]
        if not mine:
            continue
        found = measure_coverage(mine, ability.keywords, twins)
        missing = ", ".join(found.missing[:_SHOWN_KEYWORDS])
        rest = len(found.missing) - _SHOWN_KEYWORDS
        missing += f" and {rest} more" if rest > 0 else ""
        share = f"{found.named} of {found.keywords}"
        near = sum(key in twins for key, _ in mine)
        lines.append((name, f"{len(mine):,}", f"{near:,}", share, missing or "none"))
        kind = f"s{at % 9}"
        named.append((name, kind, [(x, y / max(found.keywords, 1)) for x, y in found.curve]))
        fresh.append((name, kind, list(found.fresh)))
    if not lines:
        return ""
    most = max(len(points) for _, _, points in named)
    labels = ("1 prompt", f"{most:,} prompts")
    head = ("ability", "prompts", "near-duplicates", "keywords named", "keywords missing")
    return (
        f"<section><h2>Diversity</h2>{_build_table(head, lines)}"
        f"{curves('Share of keywords named so far', named, labels)}"
        f"{curves('Share of prompts that are no near-duplicates', fresh, labels)}</section>"
    )


def _build_galleries(tables: _Tables) -> Iterable[str]:
    agreement = {one.image_id: one for one in tables.checks}
    by_ability: dict[str, list[str]] = {}
    decoder = open_thumbnail_decoder()
    try:
        for one, contents in read_in_batches(one for one in tables.entries if not one.problem):
            pictures = [make_thumbnail(decoder, content) for content in contents]
            card = _build_card(one, pictures, agreement.get)
            by_ability.setdefault(one.entry.ability, []).append(card)
    finally:
        decoder.close()
    for name, cards in by_ability.items():
        gallery = f'<div class="cards">{"".join(cards)}</div>'
        yield f"<section><h2>{escaped(name)}</h2>{gallery}</section>"


def _build_card(
    one: PlacedEntry, pictures: Sequence[str], find_check: Callable[[str], Check | None]
) -> str:
    shown = "".join(
        f'<img src="{picture}" alt="" loading="lazy">' for picture in pictures if picture
    )
    lines = [f"<p><code>{escaped(prompt)}</code></p>" for prompt in one.entry.prompts]
    lines.append(f"<p><b>{escaped(one.entry.question)}</b></p><p>{escaped(one.entry.answer)}</p>")
    for image_id in one.image_ids:
        check = find_check(image_id)
        if check is not None and check.agrees is not None:
            missing = ", ".join(check.missing)
            verdict = "agrees" if check.agrees else f"not seen: {missing}"
            lines.append(f"<small>{escaped(verdict)}</small>")
    return f'<article>{shown}<div class="text">{"".join(lines)}</div></article>'


def _build_mismatches(checks: Iterable[Check]) -> str:
    found = [one for one in checks if one.agrees is False][:_SHOWN_MISMATCHES]
    if not found:
        return ""
    head = ("image", "prompt", "what the captioner saw", "not seen")
    rows = [(one.image_id, one.prompt, one.caption or "", ", ".join(one.missing)) for one in found]
    return f"<section><h2>Images that disagree</h2>{_build_table(head, rows)}</section>"


def _build_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{escaped(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
