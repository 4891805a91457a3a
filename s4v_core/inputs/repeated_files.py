"""Files that several inputs name: each is one image, planned where it came first."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

_Numbers = np.ndarray[Any, np.dtype[np.int64]]


class RepeatedFiles:
    """Finds the files that more than one input names, with 16 bytes of memory per file.

    A table may name a file twice: what its rows mean is its own affair.

    Args:
        tables: Number and rows (INDEX_SCHEMA) of the inputs, in order.
    """

    def __init__(self, tables: Iterable[tuple[int, pa.Table]]) -> None:
        hashes, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, table in tables:
            found = _hash_files(table)
            found = found[found != 0]
            hashes.append(found)
            numbers.append(np.full(len(found), number, np.int64))
        self._first = _find_first_inputs(np.concatenate(hashes), np.concatenate(numbers))

    def __bool__(self) -> bool:
        return bool(self._first)

    def drop(self, tables: Iterable[tuple[int, pa.Table]]) -> Iterator[tuple[int, pa.Table, int]]:
        """Yield number, the rows that stay, and how many do not, for each of the tables."""
        for number, table in tables:
            keep = [self._first.get(place, number) == number for place in _hash_files(table)]
            yield number, table.filter(pa.array(keep, pa.bool_())), len(keep) - sum(keep)


def _hash_files(table: pa.Table) -> _Numbers:
    """A number for the file of each row, or 0 for a row of another container."""
    columns = zip(table["uri"].to_pylist(), table["container"].to_pylist(), strict=True)
    numbers = (hash(uri) if uri and kind == "file" else 0 for uri, kind in columns)
    return np.fromiter(numbers, np.int64, table.num_rows)


def _find_first_inputs(hashes: _Numbers, numbers: _Numbers) -> dict[int, int]:
    """The first input of each file that several inputs name."""
    order = np.lexsort((numbers, hashes))
    hashes, numbers = hashes[order], numbers[order]
    changes = (hashes[1:] == hashes[:-1]) & (numbers[1:] != numbers[:-1])
    first: dict[int, int] = {}
    for place in set(hashes[1:][changes].tolist()):
        first[place] = int(numbers[np.searchsorted(hashes, place)])
    return first
