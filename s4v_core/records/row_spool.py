"""Planned rows on a local disk on their way into a plan, so that no plan has to fit into memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pyarrow as pa


class RowSpool:
    """Tables of many inputs, added in any order and read in theirs. A context manager, which
    deletes the file.

    Args:
        schema: Schema of all tables.
        inputs: Number of inputs.
    """

    def __init__(self, schema: pa.Schema, inputs: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="s4v-plan-")
        self._path = Path(self._folder.name) / "rows.arrow"
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writer = pa.ipc.new_file(str(self._path), schema, options=options)
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(inputs)]
        self._rows = [0] * inputs
        self._batches = 0
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._finish()
        self._folder.cleanup()

    @property
    def input_rows(self) -> list[int]:
        """Rows of each input."""
        return list(self._rows)

    def add(self, number: int, part: int, table: pa.Table) -> None:
        """Keep part `part` of the rows of input `number`."""
        for batch in table.combine_chunks().to_batches():
            self._writer.write_batch(batch)
            self._places[number].append((part, self._batches))
            self._batches += 1
        self._rows[number] += table.num_rows

    def read(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield number and rows of every input in turn, each in one or more tables."""
        self._finish()
        with pa.memory_map(str(self._path)) as source:
            reader = pa.ipc.open_file(source)
            for number, places in enumerate(self._places):
                for _, batch in sorted(places):
                    yield number, pa.Table.from_batches([reader.get_batch(batch)])

    def _finish(self) -> None:
        if self._is_open:
            self._writer.close()
            self._is_open = False
