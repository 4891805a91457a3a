"""Pictures that fit: the largest area whose tokens keep within a limit."""

import pytest

from s4v_core.engines.picture_tokens import find_largest_area


def _count_areas(area: int) -> int:
    """A model that takes a token for 28 x 28 pixels, and a prompt of 40 tokens."""
    return area // 784 + 40


def _count_tiles(area: int) -> int:
    """A model that cuts every picture into twelve tiles."""
    return 3330


@pytest.mark.parametrize("most_tokens", [400, 1000, 5000])
def test_the_largest_area_uses_what_there_is(most_tokens: int) -> None:
    area = find_largest_area(_count_areas, most_tokens, 4096**2)
    assert area
    assert 0.95 * most_tokens < _count_areas(area) <= most_tokens


def test_a_picture_that_fits_keeps_its_size() -> None:
    assert find_largest_area(_count_areas, 30_000, 4096**2) == 4096**2
    assert find_largest_area(_count_tiles, 4000, 4096**2) == 4096**2


def test_no_size_helps_a_model_whose_tokens_do_not_follow_from_it() -> None:
    assert find_largest_area(_count_tiles, 2000, 4096**2) is None
    assert find_largest_area(_count_areas, 80, 4096**2) is None
