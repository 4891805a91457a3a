"""Pictures reach the engine complete, in order, and without being copied."""

import numpy as np
import pyarrow as pa
import pytest

from s4v_core.engines.requests import Picture
from s4v_core.flow.pixels import PixelBuffer, view_pictures, view_rows

VALUES = [b"one", b"", b"three and more"]


def _draw_picture(height: int, width: int, seed: int) -> Picture:
    chance = np.random.default_rng(seed)
    return chance.integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_views_show_every_row_of_every_piece_and_copy_none() -> None:
    array = pa.array(VALUES, pa.large_binary())
    column = pa.chunked_array([array[1:], array[:1], array])
    found = view_rows(column)
    assert [bytes(view) for view in found] == column.to_pylist()
    address = np.frombuffer(found[3], np.uint8).ctypes.data
    assert address == array.buffers()[2].address


@pytest.mark.parametrize("counts", [[1, 1, 1], [], [0], [0, 1, 0], [2, 0, 3, 1]])
def test_the_pictures_of_all_rows_come_back_as_they_were(counts: list[int]) -> None:
    """Rows with no picture, with one, and with several of different sizes."""
    rows = [
        [_draw_picture(2 + number, 3 + row, 10 * row + number) for number in range(count)]
        for row, count in enumerate(counts)
    ]
    most = max((sum(p.size for p in row) for row in rows), default=0)
    pixels = PixelBuffer(len(rows), most)
    shapes = [pixels.append(row) for row in rows]
    column = pixels.column()
    column.validate(full=True)
    for row, view, shape in zip(rows, view_rows(pa.chunked_array([column])), shapes, strict=True):
        found = view_pictures(view, shape)
        assert len(found) == len(row)
        assert all(np.array_equal(a, b) for a, b in zip(found, row, strict=True))
