"""Curves of a page: where their points lie, and what a title cannot break."""

import re

import pytest

from s4v_core.pages.charts import curves, curves_with_intervals, interval_rows


def _points(drawing: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'points="([^"]*)"', drawing)
    return [
        [(float(x), float(y)) for x, y in (spot.split(",") for spot in line.split())]
        for line in found
    ]


def test_a_curve_goes_from_corner_to_corner() -> None:
    (line,) = _points(curves("Loss", [("loss", "s0", [(1, 4.0), (2, 3.0), (3, 2.0)])], ("1", "3")))
    xs, ys = zip(*line, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.2)
    assert ys[0] < ys[2]  # a larger value lies higher


def test_two_curves_share_their_axes_and_have_a_legend() -> None:
    drawing = curves(
        "Loss",
        [("training", "s0", [(1, 0.0), (9, 8.0)]), ("validation", "s1", [(5, 4.0)])],
        ("", ""),
    )
    first, second = _points(drawing)
    assert second[0] == pytest.approx(
        ((first[0][0] + first[1][0]) / 2, (first[0][1] + first[1][1]) / 2), abs=0.2
    )
    assert drawing.count("</i>") == 2


@pytest.mark.parametrize(
    "points", [[(1, 2.0)], [(1, 2.0), (2, 2.0)], [(1, float("nan")), (2, 0.0), (3, float("inf"))]]
)
def test_one_point_equal_values_and_values_that_are_no_numbers_are_drawn(
    points: list[tuple[float, float]],
) -> None:
    drawing = curves("Loss", [("loss", "s0", points)], ("", ""))
    assert "nan" not in drawing
    assert all(0 <= x <= 640 and 0 <= y <= 180 for line in _points(drawing) for x, y in line)


def test_no_points_are_no_chart_and_texts_are_escaped() -> None:
    assert curves("Loss", [("loss", "s0", [])], ("", "")) == ""
    drawing = curves("<b>", [("<i>", "s0", [(1, 1)])], ("<u>", ""))
    assert not set(re.findall(r"<[biu]>", drawing))


def test_rows_of_intervals_share_an_axis_and_say_their_values() -> None:
    drawing = interval_rows("Score", [("a", 50.0, 40.0, 60.0), ("<b>", 80.0, 80.0, 80.0)])
    spots = [float(x) for x in re.findall(r'cx="([0-9.]+)"', drawing)]
    bars = [float(x) for x in re.findall(r'<rect class="s0" x="([0-9.]+)"', drawing)]
    # 40, 50 and 80 lie on one scale.
    assert (spots[0] - bars[0]) * 3 == pytest.approx(spots[1] - spots[0], abs=0.5)
    assert "50.0 [40.0, 60.0]" in drawing
    assert ">80.0<" in drawing
    assert "<b>" not in drawing
    assert interval_rows("Score", []) == ""


def test_equal_means_without_intervals_are_drawn() -> None:
    for value in (0.0, 7.0):
        drawing = interval_rows("Score", [("a", value, value, value)] * 2)
        assert all(0 <= float(x) <= 640 for x in re.findall(r'cx="([0-9.]+)"', drawing))


def test_curves_with_intervals_name_their_series() -> None:
    one = [(0.0, 1.0, 0.5, 1.5), (1.0, 2.0, 1.5, 2.5)]
    drawing = curves_with_intervals("Score", [("a", "s0", one), ("b", "s1", one)], ("0", "1"))
    assert len(_points(drawing)) == 2
    assert drawing.count("</i>") == 2
    assert "a: 1.00 [0.50, 1.50]" in drawing
