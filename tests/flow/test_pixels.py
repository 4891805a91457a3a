"""Pictures on their way to the engine: whole, in order, and not copied."""

import numpy as np
import pyarrow as pa
import pytest

from s4v_core.flow.actor import views
from s4v_core.flow.preparation import PixelBuffer

VALUES = [b"one", None, b"", b"three and more"]


def test_views_show_every_row_of_every_piece_and_copy_none() -> None:
    array = pa.array(VALUES, pa.large_binary())
    column = pa.chunked_array([array[1:], array[:1], array])
    found = views(column)
    assert [bytes(view) for view in found] == [value or b"" for value in column.to_pylist()]
    address = np.frombuffer(found[3], np.uint8).ctypes.data
    assert address == array.buffers()[2].address


@pytest.mark.parametrize("values", [VALUES, [], [None], [b"", None], [b"twelve bytes"] * 3])
def test_a_units_pictures_are_one_column(values: list[bytes | None]) -> None:
    pixels = PixelBuffer(len(values), most_bytes=14)
    for value in values:
        pixels.append(value)
    column = pixels.column()
    column.validate(full=True)
    assert column.to_pylist() == values
