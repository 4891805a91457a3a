"""Charts as SVG text: no script, no library, readable in any browser."""

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 640, 180
_LEFT, _BOTTOM, _TOP = 44, 22, 10
_ROW, _ROW_NAMES, _ROW_VALUES = 26, 170, 130
"""Height of a row of an interval, and the room for its name and for its values."""


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
    return _framed(title, "".join(parts), ("0", f"{top:,.0f}"), labels)


def curves(
    title: str,
    series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    labels: tuple[str, str],
) -> str:
    """Lines over a common axis, which begins at the smallest value.

    Args:
        series: Name, CSS class and the (x, y) points of each line; y that is not finite is left
            out.
        labels: Under the first and under the last x.
    """
    lines = [
        (name, kind, [(x, y) for x, y in points if math.isfinite(y)])
        for name, kind, points in series
    ]
    places = [point for _, _, points in lines for point in points]
    if not places:
        return ""
    left, right = min(x for x, _ in places), max(x for x, _ in places)
    low, top = min(y for _, y in places), max(y for _, y in places)
    if low == top:  # a level line lies at the upper end of an axis that begins at 0
        low, top = min(low, 0.0), max(top, 0.0)
    wide, tall = (right - left) or 1.0, (top - low) or 1.0
    room = HEIGHT - _BOTTOM - _TOP
    drawn = []
    for name, kind, points in lines:
        spots = " ".join(
            f"{_LEFT + (x - left) / wide * (WIDTH - _LEFT - 2):.1f},"
            f"{HEIGHT - _BOTTOM - (y - low) / tall * room:.1f}"
            for x, y in points
        )
        drawn.append(
            f'<polyline class="{kind}" points="{spots}"><title>{escaped(name)}</title></polyline>'
        )
    legend = _build_legend([(name, kind) for name, kind, _ in lines])
    ends = (_format_value(low), _format_value(top))
    return _framed(title, "".join(drawn), ends, labels, legend)


def curves_with_intervals(
    title: str,
    series: Sequence[tuple[str, str, Sequence[tuple[float, float, float, float]]]],
    labels: tuple[str, str],
) -> str:
    """Lines through means, each with its interval, over a common axis.

    Args:
        series: Name, CSS class and the (x, mean, low, high) of each series.
        labels: Under the first and under the last x.
    """
    places = [point for _, _, points in series for point in points]
    if not places:
        return ""
    left, right = min(one[0] for one in places), max(one[0] for one in places)
    low, top = min(one[2] for one in places), max(one[3] for one in places)
    wide, tall = (right - left) or 1.0, (top - low) or abs(top) or 1.0
    room, inner = HEIGHT - _BOTTOM - _TOP, WIDTH - _LEFT - 40

    def find_x(value: float) -> float:
        return _LEFT + 20 + (value - left) / wide * inner

    def find_y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / tall * room

    drawn = []
    for name, kind, points in series:
        spots = " ".join(f"{find_x(x):.1f},{find_y(mean):.1f}" for x, mean, _, _ in points)
        drawn.append(f'<polyline class="{kind}" points="{spots}"/>')
        for x, mean, least, most in points:
            told = f"{escaped(name)}: {mean:.2f} [{least:.2f}, {most:.2f}]"
            drawn.append(
                f'<rect class="{kind}" x="{find_x(x) - 1:.1f}" y="{find_y(most):.1f}" width="2" '
                f'height="{max(find_y(least) - find_y(most), 1):.1f}"/><circle class="{kind}" '
                f'cx="{find_x(x):.1f}" cy="{find_y(mean):.1f}" r="4"><title>{told}</title></circle>'
            )
    ends = (_format_value(low), _format_value(top))
    legend = _build_legend([(name, kind) for name, kind, _ in series])
    return _framed(title, "".join(drawn), ends, labels, legend)


def interval_rows(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """A row for each mean with its interval (a forest plot), over a common axis.

    Args:
        rows: Name, mean, low and high.
    """
    if not rows:
        return ""
    low, top = min(row[2] for row in rows), max(row[3] for row in rows)
    wide = (top - low) or abs(top) or 1.0
    bottom = _TOP + len(rows) * _ROW

    def find_x(value: float) -> float:
        return _ROW_NAMES + (value - low) / wide * (WIDTH - _ROW_NAMES - _ROW_VALUES)

    drawn = []
    for number, (name, mean, least, most) in enumerate(rows):
        y = _TOP + (number + 0.5) * _ROW
        told = f"{mean:.1f}" if least == most else f"{mean:.1f} [{least:.1f}, {most:.1f}]"
        drawn.append(
            f'<text class="label" x="0" y="{y + 4:.1f}">{escaped(name)}</text>'
            f'<rect class="s0" x="{find_x(least):.1f}" y="{y - 1:.1f}" height="2" '
            f'width="{max(find_x(most) - find_x(least), 1):.1f}"/>'
            f'<circle class="s0" cx="{find_x(mean):.1f}" cy="{y:.1f}" r="4"/>'
            f'<text x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">{told}</text>'
        )
    right = WIDTH - _ROW_VALUES
    axis = (
        f'<line class="axis" x1="{_ROW_NAMES}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
        f'<text x="{_ROW_NAMES}" y="{bottom + 14}">{_format_value(low)}</text>'
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{_format_value(top)}</text>'
    )
    drawing = axis + "".join(drawn)
    return _draw_figure(title, drawing, bottom + _BOTTOM)


def _build_legend(named: Sequence[tuple[str, str]]) -> str:
    """Names and CSS classes; none is needed for one alone."""
    if len(named) < 2:
        return ""
    parts = (f'<span><i class="{kind}"></i>{escaped(name)}</span>' for name, kind in named)
    return f'<p class="legend">{"".join(parts)}</p>'


def _format_value(value: float) -> str:
    """A number of an axis with three significant digits."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.0e}"


def _framed(
    title: str, drawing: str, ends: tuple[str, str], labels: tuple[str, str], legend: str = ""
) -> str:
    """Args:
    ends: Beside the lower and the upper end of the vertical axis.
    """
    low = HEIGHT - _BOTTOM
    first, last = (escaped(label) for label in labels)
    whole = (
        f'<line class="axis" x1="{_LEFT}" y1="{low}" x2="{WIDTH}" y2="{low}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{ends[1]}</text>'
        f'<text x="{_LEFT - 6}" y="{low}" text-anchor="end">{ends[0]}</text>{drawing}'
        f'<text x="{_LEFT}" y="{HEIGHT - 6}">{first}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>'
    )
    return _draw_figure(title, whole, HEIGHT, legend)


def _draw_figure(title: str, drawing: str, height: int, legend: str = "") -> str:
    return (
        f'<figure><figcaption>{escaped(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{escaped(title)}">{drawing}</svg>{legend}</figure>'
    )


def escaped(value: object) -> str:
    """A value as text of a page, whatever it spells."""
    return html.escape(str(value))
