"""The report of an analysis: sets side by side, as a self-contained page and as JSON."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from s4v_core.analysis.grammar import CLASSES
from s4v_core.analysis.rings import draw_rings
from s4v_core.analysis.set_statistics import SetStatistics, find_quantile
from s4v_core.pages.charts import curves, escaped
from s4v_core.pages.frame import build_page
from s4v_core.terminal import printable

TAGGER = "TextBlob 0.20 PatternTagger, simplemma"

_LIMITS = (
    "Parts of speech are told by a lexicon and rules (TextBlob's PatternTagger), about 19 of 20 "
    "words right; compare sets of this report with each other, and not with figures of another "
    "tagger. Words are counted without marks. Prepositions include conjunctions of the tag IN."
)

_BARS = 40


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _mean(value: float) -> str:
    return f"{value:,.1f}"


_ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("captions", lambda d: _whole(d["captions"])),
    ("characters, mean", lambda d: _whole(d["characters"]["mean"])),
    ("characters, 5 % to 95 %", lambda d: f"{d['characters']['p5']} to {d['characters']['p95']}"),
    ("words, mean", lambda d: _mean(d["words"]["mean"])),
    ("sentences, mean", lambda d: _mean(d["sentences_mean"])),
    ("words in all", lambda d: _whole(d["tokens"])),
    ("vocabulary", lambda d: _whole(d["vocabulary"])),
    ("different words", lambda d: f"{_share(d['distinct_1'])} of {d['window']:,}"),
    ("different pairs of words", lambda d: _share(d["distinct_2"])),
    ("different groups of three", lambda d: _share(d["distinct_3"])),
    ("groups of four said before in a caption", lambda d: _share(d["repeated_groups"])),
    ("captions that loop", lambda d: _share(d["looping_captions"])),
    ("captions that another one repeats", lambda d: _share(d["repeated_captions"])),
    ('openings like "The image shows"', lambda d: _share(d["boilerplate_openings"])),
    ("root pairs, different ones", lambda d: _whole(d["different_root_pairs"])),
)
"""Rows of the table of all sets."""


def describe_sets(sets: Mapping[str, SetStatistics]) -> dict[str, Any]:
    """All figures of all sets, as JSON."""
    found = {name: statistics.describe() for name, statistics in sets.items()}
    classes = {name: list(tags) for name, tags in CLASSES.items()}
    return {"tagger": TAGGER, "classes": classes, "sets": found}


def show_sets(sets: Mapping[str, SetStatistics]) -> str:
    """The table of all sets as text for a terminal."""
    figures = [statistics.describe() for statistics in sets.values()]
    rows = [["", *map(printable, sets)]]
    rows += [[label, *(show(one) for one in figures)] for label, show in _ROWS]
    rows += [[name, *(_share(one["shares"][name]) for one in figures)] for name in CLASSES]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def build_report(sets: Mapping[str, SetStatistics]) -> str:
    """The page of an analysis."""
    figures = {name: statistics.describe() for name, statistics in sets.items()}
    body = [
        _build_table(figures),
        "<h2>Parts of speech</h2>",
        f"<p>{escaped(_LIMITS)}</p>",
        _build_shares(figures),
        '<div class="charts">',
        _draw_lengths("Characters of a caption", {n: s.characters for n, s in sets.items()}),
        _draw_lengths("Words of a caption", {n: s.word_counts for n, s in sets.items()}),
        "</div><h2>Root verbs and their nouns</h2>",
        "<p>For each sentence the head verb of its first verb phrase, and the noun in front of it; "
        "frequent verbs inside, their nouns outside.</p>",
        '<div class="charts">',
        *(draw_rings(name, statistics.pairs) for name, statistics in sets.items()),
        "</div>",
        _build_lists("Openings", "openings", figures),
        _build_lists("Frequent words", "frequent_words", figures),
    ]
    subject = f"{', '.join(sets)}; {TAGGER}"
    return build_page("Captions compared", subject, "".join(body))


def _build_table(figures: Mapping[str, dict[str, Any]]) -> str:
    head = "".join(f'<th class="number">{escaped(name)}</th>' for name in figures)
    rows = [
        f"<tr><td>{escaped(label)}</td>"
        + "".join(f'<td class="number">{escaped(show(one))}</td>' for one in figures.values())
        + "</tr>"
        for label, show in _ROWS
    ]
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _build_shares(figures: Mapping[str, dict[str, Any]]) -> str:
    """Bars of the shares of each class, one below the other for the sets."""
    top = max((one["shares"][name] for one in figures.values() for name in CLASSES), default=0) or 1
    rows = []
    for name in CLASSES:
        for at, (label, one) in enumerate(figures.items()):
            share = one["shares"][name]
            rows.append(
                f"<tr><td>{escaped(name) if at == 0 else ''}</td><td>{escaped(label)}</td>"
                f'<td class="number">{_share(share)}</td><td class="bar">'
                f'<i class="s{at % 9}" style="width:{100 * share / top:.1f}%"></i></td></tr>'
            )
    return f'<table class="shares">{"".join(rows)}</table>'


def _draw_lengths(title: str, lengths: Mapping[str, Counter[int]]) -> str:
    """Share of captions by length, a line for each set."""
    longest = max((_find_end(counts) for counts in lengths.values()), default=0)
    step = max(-(-longest // _BARS), 1)
    series = []
    for at, (name, counts) in enumerate(lengths.items()):
        shares = [0.0] * (longest // step + 1)
        for length, count in counts.items():
            if length <= longest:
                shares[length // step] += 100 * count / counts.total()
        points = [(step * (place + 0.5), share) for place, share in enumerate(shares)]
        series.append((name, f"s{at % 9}", points))
    return curves(f"{title}, % of captions per {step}", series, ("0", f"{longest:,}"))


def _find_end(counts: Counter[int]) -> int:
    """The length that one caption in a hundred exceeds, so that one long caption bends no axis."""
    return find_quantile(counts, 0.99)


def _build_lists(title: str, key: str, figures: Mapping[str, dict[str, Any]]) -> str:
    parts = []
    for name, one in figures.items():
        rows = "".join(
            f'<tr><td>{escaped(text)}</td><td class="number">{count:,}</td></tr>'
            for text, count in one[key].items()
        )
        parts.append(
            f"<figure><figcaption>{escaped(name)}</figcaption><table>{rows}</table></figure>"
        )
    return f'<h2>{escaped(title)}</h2><div class="charts">{"".join(parts)}</div>'
