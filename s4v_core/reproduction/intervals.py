"""The charts of a report: arms below each other, or curves over what was varied."""

from s4v_core.pages.charts import curves_with_intervals, interval_rows
from s4v_core.reproduction.findings import ArmFound, Findings

_KINDS = 9
"""Colours that the page knows."""


def draw_intervals(found: Findings, measure: int) -> str:
    """Means over seeds with their intervals: a curve where arms have a place on an axis."""
    title = f"{found.study.measures[measure].title}: mean over seeds, 95 % interval"
    placed = [one for one in found.arms if one.arm.at is not None]
    if placed:
        return _draw_curves(title, placed, measure)
    axis = f" ({', '.join(found.study.head)})"
    rows = [(one.arm.title, *one.figures[measure]) for one in found.arms]
    return interval_rows(title + axis, rows)


def _draw_curves(title: str, placed: list[ArmFound], measure: int) -> str:
    names = list(dict.fromkeys(one.arm.curve for one in placed))
    series = []
    for number, name in enumerate(names):
        points = [
            (one.arm.at or 0.0, *one.figures[measure]) for one in placed if one.arm.curve == name
        ]
        series.append((name, f"s{number % _KINDS}", points))
    return curves_with_intervals(title, series, (placed[0].arm.name[-1], placed[-1].arm.name[-1]))
