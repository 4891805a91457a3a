"""Reads the encoded images of one unit from a Parquet.

A plan row of a Parquet has these places: `row` is the row of the table, `offset` the number of the
image in a list of images (null if the column has no lists), and `length` the number of the column,
counted from 1 (null for the column that is chosen by default).
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.inputs.image_names import decode_inline_image
from s4v_core.inputs.parquet_columns import (
    PAGE_ERRORS,
    count_batch_rows,
    find_bytes_column,
    list_leaves,
    open_parquet,
)


def read_parquet_rows(rows: Sequence[dict[str, Any]]) -> list[bytes | str]:
    """Return for each plan row of one Parquet, in order, the image's bytes or the reason for none.

    Only the row groups with these rows are read, and only their image column. A damaged page makes
    the rows from it to the end of its row group `damaged_page`.
    """
    wanted = sorted({row["row"] for row in rows})
    cells: dict[int, Any] = {}
    with storage.open_to_read(rows[0]["uri"]) as file:
        table = open_parquet(file)
        column = _find_column(table.schema_arrow, rows[0]["length"])
        first = 0
        for group in range(table.num_row_groups):
            end = first + table.metadata.row_group(group).num_rows
            hits = [row for row in wanted if first <= row < end]
            if hits:
                cells |= _read_cells(table, group, column, [row - first for row in hits], first)
            first = end
    return [
        _extract_bytes(cells[row["row"]], row["offset"]) if row["row"] in cells else "damaged_page"
        for row in rows
    ]


def _find_column(schema: pa.Schema, number: int | None) -> str:
    if number is not None:
        return str(schema.names[number - 1])
    column = find_bytes_column(schema)
    assert column, "the plan only has rows of files with such a column"
    return column.name


def _read_cells(
    table: pq.ParquetFile, group: int, column: str, hits: list[int], first: int
) -> dict[int, Any]:
    """The values of some rows of a row group, without those that a damaged page hides.

    Args:
        hits: The wanted rows, counted from the start of the row group.
        first: The row of the table at which the row group starts.
    """
    cells: dict[int, Any] = {}
    batch_rows = count_batch_rows(table, group, list(list_leaves(table, column).values()))
    batches = table.iter_batches(batch_rows, row_groups=[group], columns=[column])
    start = 0
    try:
        for batch in batches:
            values = batch.column(batch.schema.names.index(column))
            for row in hits:
                if start <= row < start + len(values):
                    cells[first + row] = values[row - start].as_py()
            start += len(values)
            if start > hits[-1]:
                break
    except FileNotFoundError:
        raise
    except PAGE_ERRORS:
        pass
    return cells


def _extract_bytes(cell: Any, element: int | None) -> bytes | str:
    if element is not None:
        cell = cell[element]
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(data, str):
        return decode_inline_image(data)
    return "not_found" if data is None else bytes(data)
