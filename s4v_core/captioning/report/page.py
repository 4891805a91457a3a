"""The report of a caption run: what it holds, and in which order."""

import json
import time
from collections import Counter
from collections.abc import Callable
from importlib import resources
from typing import Any

from s4v_core.captioning.report.gallery import build_cards
from s4v_core.captioning.report.survey import (
    BIN_QUALITY,
    BIN_TOKENS,
    KINDS,
    TICK_S,
    Lengths,
    Survey,
    survey_run,
)
from s4v_core.captioning.report.text_findings import build_checks
from s4v_core.pages.charts import escaped, stacked_bars
from s4v_core.pages.frame import build_page
from s4v_core.records.contract import STATUSES
from s4v_core.records.plan import PlanHead
from s4v_core.runs.counts import RunCounts
from s4v_core.runs.derived_files import write_derived
from s4v_core.runs.engine_figures import list_load
from s4v_core.runs.figures import find_limit_words

REPORT_NAME, _SPARE_NAME = "report.html", "captions-report.html"
_LEGACY_START = (
    b'<!doctype html><html lang="en"><head><meta charset="utf-8">'
    b'<meta name="viewport" content="width=device-width,initial-scale=1">'
    b'<meta http-equiv="Content-Security-Policy"'
)
"""Start of the pages of version 0.2, which left no receipts."""

_SHOWN_SOURCES = 8
_MOST_BARS = 120


def write_report(
    output: str, head: PlanHead, counts: RunCounts, figures: dict[str, Any], notice: str = ""
) -> str | None:
    """Write the page. It is derived, and may be written again at any time. A page of that name that
    is a user's stays as it is.

    Args:
        notice: A sentence shown above everything else.

    Returns:
        URI of the page; None if its names are taken by files that are not ours.
    """
    survey = survey_run(output, head)
    sections = [
        _summary(counts, figures),
        _reasons(counts),
        _engine(figures),
        _charts(survey),
        _sources(survey),
        build_checks(survey),
        _gallery(survey, build_cards(output, survey, head.settings)),
        _settings(head),
    ]
    script = _read_asset("page.js")
    page = build_page("Captions", head.settings["model"], "".join(sections), notice, script)
    return write_derived(output, (REPORT_NAME, _SPARE_NAME), page.encode(), _LEGACY_START)


def _summary(counts: RunCounts, figures: dict[str, Any]) -> str:
    tokens = counts.sums.get("output_tokens", 0) / max(counts.ok, 1)
    numbers = {
        "images": f"{counts.rows:,}",
        "captions": f"{counts.ok:,}",
        "rejected": f"{counts.rejected:,}",
        "errors": f"{counts.error:,}",
        "tokens a caption": f"{tokens:.0f}",
        "captions a second": f"{figures['ok_rows_per_s']:g}",
        "generated a second": f"{figures['attempts_per_s']:g}",
        "bound by": figures["bound_by"],
    }
    items = "".join(f"<li><b>{escaped(v)}</b>{escaped(k)}</li>" for k, v in numbers.items())
    left = counts.rows - counts.done
    missing = f'<p class="notice">{left:,} images have no row yet.</p>' if left else ""
    damaged = "".join(
        f'<p class="notice">damaged shard {escaped(shard["uri"])}: '
        f"{escaped(', '.join(d['kind'] for d in shard['damages']))}</p>"
        for shard in counts.damaged[:20]
    )
    return f'<ul class="figures">{items}</ul>{missing}{damaged}'


def _reasons(counts: RunCounts) -> str:
    if not counts.reasons:
        return ""
    most = max(counts.reasons.values())
    rows = "".join(
        f"<tr><td>{escaped(reason)}</td><td class=number>{number:,}</td>"
        f'<td class="bar"><i style="width:{100 * number / most:.1f}%"></i></td></tr>'
        for reason, number in counts.reasons.items()
    )
    return f"<h2>Why images have no caption</h2><table>{rows}</table>"


def _engine(figures: dict[str, Any]) -> str:
    """A table of what the engines told about their load; nothing if they told nothing."""
    if not (load := figures.get("engine_load")):
        return ""
    limit = find_limit_words(figures)
    shown = ({"limited by": limit} if limit else {}) | list_load(load)
    rows = "".join(
        f"<tr><td>{escaped(label)}</td><td class=number>{escaped(value)}</td></tr>"
        for label, value in shown.items()
    )
    return f"<h2>Engine</h2><table>{rows}</table>"


def _charts(survey: Survey) -> str:
    if not survey.ticks:
        return ""
    charts = (_minutes_chart(survey), _lengths_chart(survey), _quality_chart(survey))
    return f'<div class="charts">{"".join(charts)}</div>'


def _minutes_chart(survey: Survey) -> str:
    first, last = min(survey.ticks), max(survey.ticks)
    wide = -(-(last - first + 1) // _MOST_BARS)
    bars = range(-(-(last - first + 1) // wide))
    per_minute = 60 / TICK_S / wide
    series = []
    for status in STATUSES:
        values = [0.0] * len(bars)
        for tick, found in survey.ticks.items():
            values[(tick - first) // wide] += found[status] * per_minute
        series.append((status, status, values))
    ends = (_format_time(first), _format_time(last))
    return stacked_bars("Rows per minute (UTC)", series, ends)


def _lengths_chart(survey: Survey) -> str:
    series, bars = _split_by_source(survey, lambda one: one.bins)
    return stacked_bars("Tokens of a caption, by source", series, ("0", f"{bars * BIN_TOKENS}"))


def _quality_chart(survey: Survey) -> str:
    if not any(one.scored for one in survey.sources.values()):
        return ""
    series, bars = _split_by_source(survey, lambda one: one.quality_bins)
    ends = ("0", f"{bars * BIN_QUALITY:.2f}")
    return stacked_bars("Quality of a caption, by source", series, ends)


def _split_by_source(
    survey: Survey, bins_of: Callable[[Lengths], Counter[int]]
) -> tuple[list[tuple[str, str, list[float]]], int]:
    """A histogram's bars, each split by source, and how many bars there are."""
    sources = _list_largest_sources(survey)
    last = max((max(bins_of(one), default=0) for one in survey.sources.values()), default=0)
    bars = range(last + 1)
    series = [
        (name, f"s{number}", [float(bins_of(survey.sources[name])[at]) for at in bars])
        for number, name in enumerate(sources)
    ]
    others = [bins_of(one) for name, one in survey.sources.items() if name not in sources]
    rest = [float(sum(one[at] for one in others)) for at in bars]
    return series + ([("others", "s8", rest)] if any(rest) else []), len(bars)


def _sources(survey: Survey) -> str:
    rows = "".join(
        f'<tr><td><i class="s{min(number, 8)}"></i>{escaped(name)}</td>'
        f"<td class=number>{one.rows:,}</td><td class=number>{one.ok:,}</td>"
        f"<td class=number>{one.tokens / max(one.ok, 1):.0f}</td>{_describe_quality(one)}</tr>"
        for number, (name, one) in enumerate(
            sorted(survey.sources.items(), key=lambda item: -item[1].rows)[:50]
        )
    )
    attempts = ", ".join(
        f"{number:,} after {count}" for count, number in sorted(survey.attempts.items()) if count
    )
    head = "<tr><th>source<th class=number>images<th class=number>captions<th class=number>tokens"
    if any(one.scored for one in survey.sources.values()):
        head += "<th class=number>quality"
    return f"<h2>Sources</h2><table>{head}{rows}</table><p>Attempts: {escaped(attempts)}.</p>"


def _describe_quality(one: Lengths) -> str:
    return f"<td class=number>{one.quality / one.scored:.3f}</td>" if one.scored else ""


def _gallery(survey: Survey, shown: str) -> str:
    kinds = [kind for kind in KINDS if survey.picks.get(kind)]
    buttons = "".join(
        f'<button type="button" data-kind="{kind}" aria-pressed="{str(at == 0).lower()}">{kind} '
        f"({len(survey.picks[kind])})</button>"
        for at, kind in enumerate(kinds)
    )
    options = "".join(f"<option>{escaped(name)}</option>" for name in sorted(survey.sources))
    return (
        f'<h2>Gallery</h2><div class="filters" role="group" aria-label="Filters">{buttons}'
        f'<select aria-label="Source"><option value="">all sources</option>{options}</select>'
        '<input type="search" placeholder="words" aria-label="Words in the caption">'
        f'<output></output></div><div class="cards">{shown}</div>'
    )


def _settings(head: PlanHead) -> str:
    text = escaped(json.dumps(head.settings, indent=2, ensure_ascii=False))
    return f"<details><summary>Settings</summary><pre>{text}</pre></details>"


def _list_largest_sources(survey: Survey) -> list[str]:
    by_rows = sorted(survey.sources, key=lambda name: -survey.sources[name].rows)
    return by_rows[:_SHOWN_SOURCES]


def _format_time(tick: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(TICK_S * tick))


def _read_asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
