"""Charts as SVG text: no script, no library, readable in any browser."""

import html
from collections.abc import Sequence

WIDTH, HEIGHT = 640, 180
_LEFT, _BOTTOM, _TOP = 44, 22, 10


def stacked_bars(
    title: str, series: Sequence[tuple[str, str, Sequence[float]]], labels: tuple[str, str]
) -> str:
    """Bars side by side, parts of one bar on top of each other.

    Args:
        series: Name, CSS class and one value per bar.
        labels: Under the first and under the last bar.
    """
    bars = max((len(values) for _, _, values in series), default=0)
    sums = [sum(values[at] for _, _, values in series) for at in range(bars)]
    top = max(sums, default=0) or 1
    step = (WIDTH - _LEFT) / max(bars, 1)
    room = HEIGHT - _BOTTOM - _TOP
    parts = []
    for at in range(bars):
        floor = float(HEIGHT - _BOTTOM)
        for name, kind, values in series:
            tall = values[at] / top * room
            if tall <= 0:
                continue
            floor -= tall
            parts.append(
                f'<rect class="{kind}" x="{_LEFT + at * step:.1f}" y="{floor:.1f}" '
                f'width="{max(step - 1, 0.6):.1f}" height="{tall:.1f}">'
                f"<title>{escaped(name)}: {values[at]:g}</title></rect>"
            )
    return _framed(title, "".join(parts), top, labels)


def _framed(title: str, drawing: str, top: float, labels: tuple[str, str]) -> str:
    low = HEIGHT - _BOTTOM
    first, last = (escaped(label) for label in labels)
    return (
        f'<figure><figcaption>{escaped(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escaped(title)}">'
        f'<line class="axis" x1="{_LEFT}" y1="{low}" x2="{WIDTH}" y2="{low}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{top:,.0f}</text>'
        f'<text x="{_LEFT - 6}" y="{low}" text-anchor="end">0</text>{drawing}'
        f'<text x="{_LEFT}" y="{HEIGHT - 6}">{first}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{last}</text></svg></figure>'
    )


def escaped(value: object) -> str:
    """A value as text of a page, whatever it spells."""
    return html.escape(str(value))
