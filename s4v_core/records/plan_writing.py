"""Writes plans: the first of a run, and a further part when its input has grown.

A part is a pure function of listing and settings, so that two first starts write the same bytes.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.failpoints import reach
from s4v_core.records.plan import (
    PLAN_KEY,
    PlanHead,
    PlanPart,
    part_uri,
    require_plan_head,
)
from s4v_core.records.schemas import UNIT_SIZE, index_schema, plan_schema


def build_head(
    input_rows: Sequence[int],
    accounts: list[dict[str, Any]],
    settings: Mapping[str, Any],
    listing_digest: str,
    *,
    kind: str,
    key: str,
    unit_size: int = UNIT_SIZE,
    renamed: int = 0,
) -> PlanHead:
    """The head of a plan; no unit spans two inputs.

    Args:
        input_rows: Rows of each input.
        accounts: One per input.
    """
    unit_rows = [rows for count in input_rows for rows in _cut_evenly(count, unit_size)]
    whole = json.dumps([dict(settings), listing_digest], sort_keys=True)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    return PlanHead(digest, dict(settings), listing_digest, accounts, unit_rows, renamed, kind, key)


def write_plan(output: str, head: PlanHead, tables: Iterable[pa.Table]) -> PlanHead:
    """Write the plan unless there is one already.

    Args:
        tables: The rows of all inputs in order (`index_schema(head.key)`).

    Returns:
        The head of the plan that now lies there: the caller's, or that of the run that was first.

    Raises:
        InputError: Two rows have the same key.
    """
    rows = zip(head.units, _cut_units(tables, head.unit_rows), strict=True)
    with _write_rows(head, {}, rows) as file:
        reach("before_plan_put")
        storage.create(part_uri(output, 1), file.read())
    reach("after_plan_put")
    return require_plan_head(output)


def write_part(
    output: str,
    before: PlanHead,
    grown: PlanHead,
    renewed: Mapping[int, pa.Table],
    tables: Iterable[pa.Table],
    removed: int,
) -> PlanHead:
    """Write a further part of a plan, unless another run was quicker.

    Args:
        before: Head of the plan that the input was compared with.
        grown: Head of what is new: settings, listing and accounts of the whole input, and the
            units of the new rows alone.
        renewed: Rows of earlier units whose places hold something else now, by unit.
        tables: The new rows, in order.
        removed: Rows of earlier parts that the input no longer has.

    Returns:
        The head of the whole plan as it now lies there.
    """
    first = len(before.unit_rows)
    digest = hashlib.sha256((before.parts[-1].digest + grown.digest).encode()).hexdigest()
    part = PlanPart("", digest, first, len(grown.unit_rows), tuple(sorted(renewed)), removed)
    old = ((unit, _as_index_rows(renewed[unit], grown.key)) for unit in part.renewed)
    new = zip(range(first, first + part.units), _cut_units(tables, grown.unit_rows), strict=True)
    about = {"first_unit": first, "renewed": part.renewed, "removed": removed}
    with _write_rows(replace(grown, digest=digest), about, (*old, *new)) as file:
        reach("before_plan_put")
        storage.create(part_uri(output, len(before.parts) + 1), file.read())
    reach("after_plan_put")
    return require_plan_head(output)


def take_first(tables: Iterable[pa.Table], limit: int) -> Iterator[pa.Table]:
    """The first `limit` rows of all tables together."""
    for table in tables:
        if limit <= 0:
            return
        yield table.slice(0, limit)
        limit -= table.num_rows


def _write_rows(
    head: PlanHead, about_part: Mapping[str, Any], units: Iterable[tuple[int, pa.Table]]
) -> BinaryIO:
    """A temporary file with one row group per unit, at its start.

    Raises:
        InputError: Two rows have the same key.
    """
    about = {name: getattr(head, name) for name in PlanHead.STORED} | dict(about_part)
    schema = plan_schema(head.key)
    marked = schema.with_metadata({PLAN_KEY: json.dumps(about).encode()})
    hashes: list[np.ndarray[Any, Any]] = []
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with pq.ParquetWriter(file, marked, compression="zstd") as writer:
        for unit, rows in units:
            hashes.append(hash_keys(rows[head.key]))
            numbers = pa.array(np.full(rows.num_rows, unit), pa.int32())
            table = rows.add_column(1, schema.field("unit"), numbers)
            table = table.select(schema.names).cast(schema)
            writer.write_table(table, row_group_size=max(rows.num_rows, 1))
    _refuse_repeated_keys(file, head.key, np.concatenate([np.zeros(0, np.int64), *hashes]))
    file.seek(0)
    return file


def hash_keys(keys: "pa.ChunkedArray[Any]") -> "np.ndarray[Any, Any]":
    """A number for each key, which is the same for the same key in this process alone."""
    return np.fromiter(map(hash, keys.to_pylist()), np.int64, len(keys))


def find_repeated(hashes: "np.ndarray[Any, Any]") -> set[int]:
    """The numbers that occur more than once."""
    ordered = np.sort(hashes)
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def _refuse_repeated_keys(file: BinaryIO, key: str, hashes: "np.ndarray[Any, Any]") -> None:
    repeated = find_repeated(hashes)
    if not repeated:
        return
    seen: set[str] = set()
    for value in map(str, pq.read_table(file, columns=[key])[key].to_pylist()):
        if value in seen:
            raise InputError(value, f"this {key} occurs twice; every row needs its own")
        seen.add(value)


def _cut_units(tables: Iterable[pa.Table], unit_rows: Sequence[int]) -> Iterator[pa.Table]:
    """The rows of all tables, cut into units of these sizes."""
    stream = iter(tables)
    waiting: list[pa.Table] = []
    for wanted in unit_rows:
        while sum(table.num_rows for table in waiting) < wanted:
            waiting.append(next(stream))
        whole = pa.concat_tables(waiting)
        yield whole.slice(0, wanted)
        waiting = [whole.slice(wanted)] if whole.num_rows > wanted else []


def _cut_evenly(rows: int, unit_size: int) -> list[int]:
    return [min(unit_size, rows - start) for start in range(0, rows, unit_size)]


def _as_index_rows(rows: pa.Table, key: str) -> pa.Table:
    return rows.select(index_schema(key).names)
