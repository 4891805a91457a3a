"""The pictures of a unit in one piece of memory, and back.

As values of their own they would lie between smaller ones on the heap, which then cannot shrink,
and a growing column would hold them once more: either cost a worker about 170 MiB.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core.engines.requests import Picture

Shapes = list[tuple[int, int]]
"""Height and width of each picture of a row, pixels."""


class PixelBuffer:
    """Collects the pictures of all rows of a unit, one row after the other.

    Args:
        rows: How many rows will be appended.
        row_bytes: Most bytes of one row's pictures.
    """

    def __init__(self, rows: int, row_bytes: int) -> None:
        self._bytes = np.empty(rows * row_bytes, np.uint8)
        self._ends = [0]

    def append(self, pictures: Sequence[Picture]) -> Shapes:
        """Copy one row's pictures behind those of the row before; returns their shapes."""
        start = self._ends[-1]
        for picture in pictures:
            end = start + picture.size
            self._bytes[start:end] = picture.reshape(-1)
            start = end
        self._ends.append(start)
        return [(picture.shape[0], picture.shape[1]) for picture in pictures]

    def column(self) -> "pa.Array[Any]":
        """All rows' pixels (large_binary, empty for a row without pictures); a view, not a copy."""
        ends = pa.array(self._ends, pa.int64()).buffers()[1]
        data = pa.py_buffer(self._bytes[: self._ends[-1]].data)
        count = len(self._ends) - 1
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, [None, ends, data])


def view_rows(column: "pa.ChunkedArray[Any]") -> list[memoryview]:
    """Each row's bytes where they lie, in the object store; Arrow's own scalars are copies."""
    found: list[memoryview] = []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        assert ends, "a large_binary column has offsets"
        whole = memoryview(data or b"")
        here = np.frombuffer(memoryview(ends), np.int64)[
            chunk.offset : chunk.offset + len(chunk) + 1
        ]
        found += [whole[start:end] for start, end in pairwise(here)]
    return found


def view_pictures(pixels: memoryview, shapes: Shapes) -> tuple[Picture, ...]:
    """The pictures of one row as arrays over its bytes."""
    pictures: list[Picture] = []
    start = 0
    for height, width in shapes:
        end = start + 3 * height * width
        pictures.append(np.frombuffer(pixels[start:end], np.uint8).reshape(height, width, 3))
        start = end
    return tuple(pictures)
