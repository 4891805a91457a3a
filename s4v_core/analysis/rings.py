"""Two rings of a chart: root verbs inside, the nouns that they are said of outside (Figure 7)."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from s4v_core.pages.charts import escaped

_SIZE = 420
_RADII = (60.0, 125.0, 205.0)
_VERBS, _NOUNS = 16, 5
"""Verbs of the chart, and nouns of each."""

_LABEL_TURN = 0.035
"""Smallest share of the circle whose label has room."""

_COLOURS = 9


def draw_rings(title: str, pairs: Mapping[tuple[str, str], int]) -> str:
    """An SVG of the most frequent pairs of a verb and a noun; empty without any."""
    verbs = _choose_pairs(pairs)
    total = sum(sum(nouns.values()) for nouns in verbs.values())
    if not total:
        return ""
    parts = []
    start = 0.0
    for at, (verb, nouns) in enumerate(verbs.items()):
        colour = f"s{at % _COLOURS}"
        turn = sum(nouns.values()) / total
        parts.append(_draw_piece(0, start, turn, colour, verb, sum(nouns.values())))
        inner = start
        for noun, count in nouns.items():
            parts.append(_draw_piece(1, inner, count / total, f"{colour} outer", noun, count))
            inner += count / total
        start += turn
    half = _SIZE / 2
    return (
        f"<figure><figcaption>{escaped(title)}</figcaption>"
        f'<svg viewBox="{-half:g} {-half:g} {_SIZE} {_SIZE}" role="img" '
        f'aria-label="{escaped(title)}">{"".join(parts)}</svg></figure>'
    )


def _choose_pairs(pairs: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """The most frequent verbs, each with its most frequent nouns."""
    totals: Counter[str] = Counter()
    nouns_of: dict[str, dict[str, int]] = defaultdict(dict)
    for (verb, noun), count in pairs.items():
        totals[verb] += count
        nouns_of[verb][noun] = count
    verbs = sorted(totals, key=lambda verb: (-totals[verb], verb))[:_VERBS]
    return {
        verb: dict(sorted(nouns_of[verb].items(), key=lambda one: (-one[1], one[0]))[:_NOUNS])
        for verb in verbs
    }


def _draw_piece(ring: int, start: float, turn: float, kind: str, label: str, count: int) -> str:
    """A piece of a ring, with its label if that has room.

    Args:
        start, turn: Begin and length, as shares of the circle.
    """
    inner, outer = _RADII[ring], _RADII[ring + 1]
    end = start + min(turn, 0.9999)  # an arc of a whole turn is none
    is_long = int(turn > 0.5)
    path = (
        f"M{_place(outer, start)}A{outer:g} {outer:g} 0 {is_long} 1 {_place(outer, end)}"
        f"L{_place(inner, end)}A{inner:g} {inner:g} 0 {is_long} 0 {_place(inner, start)}Z"
    )
    title = f"<title>{escaped(label)}: {count:,}</title>"
    piece = f'<path class="piece {kind}" d="{path}">{title}</path>'
    if turn < (_LABEL_TURN if ring == 0 else _LABEL_TURN / 2.5):
        return piece
    middle = start + turn / 2
    angle = middle * 360 - 90
    if 90 < angle % 360 < 270:
        angle += 180
    place = _place((inner + outer) / 2, middle)
    return piece + (
        f'<text class="label" transform="translate({place}) rotate({angle:.1f})" '
        f'text-anchor="middle" dominant-baseline="central">{escaped(label)}</text>'
    )


def _place(radius: float, turn: float) -> str:
    """A point of a circle; the turn begins at the top and goes clockwise."""
    angle = 2 * math.pi * turn
    return f"{radius * math.sin(angle):.2f},{-radius * math.cos(angle):.2f}"
