"""The plan: every row of a run in units, one row group each, written once and never edited.

A pure function of listing and settings, so that two first starts write the same bytes.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError, StorageError
from s4v_core.failpoints import reach
from s4v_core.records.schemas import UNIT_SIZE, check_schema, index_schema, plan_schema

PLAN_NAME = "plan.parquet"
_KEY = b"s4v.plan"
_OLD_PAYLOAD = "sidecar"  # the payload's name in plans of version 0.1, which can be resumed


@dataclass(frozen=True, slots=True)
class PlanHead:
    """The plan without its rows.

    Attributes:
        digest: Hash of settings and listing; every unit's file carries it.
        settings: Everything that changes a result row, as `name: value`.
        listing_digest: Hash of name, size and tag of every input file.
        inputs: One account per input (`ShardAccount.describe` for shards of images).
        unit_rows: Rows of each unit.
        renamed: Rows whose key another row had already, so that they got a number.
        kind: Folder of the unit files, which is the name of the kind of run.
        key: Column that identifies a row.
    """

    digest: str
    settings: dict[str, Any]
    listing_digest: str
    inputs: list[dict[str, Any]]
    unit_rows: list[int]
    renamed: int
    kind: str = "captions"
    key: str = "image_id"

    @property
    def rows(self) -> int:
        return sum(self.unit_rows)

    @property
    def units(self) -> range:
        return range(len(self.unit_rows))

    @property
    def damaged(self) -> list[dict[str, Any]]:
        """Accounts of the inputs that are not proven complete."""
        return [account for account in self.inputs if account.get("damages")]


def plan_uri(output: str) -> str:
    return storage.join(output, PLAN_NAME)


def build_plan(
    tables: Sequence[pa.Table],
    accounts: list[dict[str, Any]],
    settings: Mapping[str, Any],
    listing_digest: str,
    *,
    kind: str,
    key: str,
    unit_size: int = UNIT_SIZE,
    renamed: int = 0,
) -> tuple[PlanHead, pa.Table]:
    """Cut the rows of each input into units; no unit spans two inputs.

    Args:
        tables: Rows of each input in order (`index_schema(key)`).
        accounts: One per input.

    Raises:
        InputError: Two rows have the same key.
    """
    units = _number_units([t.num_rows for t in tables], unit_size)
    rows = pa.concat_tables([index_schema(key).empty_table(), *tables])
    _refuse_repeated_keys(rows, key)
    schema = plan_schema(key)
    table = rows.add_column(1, schema.field("unit"), pa.array(units, pa.int32()))
    unit_rows = np.bincount(units).tolist() if len(units) else []
    whole = json.dumps([dict(settings), listing_digest], sort_keys=True)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    head = PlanHead(digest, dict(settings), listing_digest, accounts, unit_rows, renamed, kind, key)
    return head, table.select(schema.names).cast(schema)


def write_plan(output: str, head: PlanHead, table: pa.Table) -> PlanHead:
    """Write the plan unless there is one already.

    Returns:
        The head of the plan that now lies there: the caller's, or that of the run that was first.
    """
    about = {name: getattr(head, name) for name in PlanHead.__slots__}
    schema = plan_schema(head.key).with_metadata({_KEY: json.dumps(about).encode()})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        start = 0
        for rows in head.unit_rows:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    reach("before_plan_put")
    storage.create(plan_uri(output), sink.getvalue())
    reach("after_plan_put")
    found = read_plan_head(output)
    assert found is not None, "a plan that was just written is there"
    return found


def read_plan_head(output: str) -> PlanHead | None:
    """The head of the plan of a run's folder, or None if nothing was planned there."""
    uri = plan_uri(output)
    if storage.stat(uri) is None:
        return None
    with storage.open_to_read(uri, block_mib=1) as file:
        about = json.loads(pq.read_schema(file).metadata[_KEY])
    if "shards" in about:  # a plan of version 0.1
        about["inputs"] = about.pop("shards")
    return PlanHead(**about)


def is_plan(uri: str) -> bool:
    """Whether a Parquet file is the plan of a run, and no other table of that name."""
    try:
        with storage.open_to_read(uri, block_mib=1) as file:
            return _KEY in (pq.read_schema(file).metadata or {})
    except (pa.ArrowInvalid, StorageError, FileNotFoundError):
        return False


def require_plan_head(output: str) -> PlanHead:
    """The head of the plan of a run's folder.

    Raises:
        InputError: Nothing was planned there.
    """
    head = read_plan_head(output)
    if head is None:
        raise InputError(output, f"holds no run (there is no {PLAN_NAME})")
    return head


def read_planned_unit(output: str, unit: int) -> pa.Table:
    """The planned rows of one unit (`plan_schema`); reads that row group alone.

    Raises:
        FileNotFoundError: There is no plan.
    """
    found = storage.stat(plan_uri(output))
    if found is None:
        raise FileNotFoundError(plan_uri(output))
    with storage.open_to_read(found.uri, block_mib=1) as file:
        table = pq.ParquetFile(file, metadata=_read_footer(found)).read_row_group(unit)
    names = ["payload" if name == _OLD_PAYLOAD else name for name in table.column_names]
    table = table.replace_schema_metadata().rename_columns(names)
    schema = plan_schema(names[0])
    for field in schema:  # that plans of earlier versions do not have
        if field.nullable and field.name not in names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if set(table.column_names) == set(schema.names):
        table = table.select(schema.names).cast(schema)  # version 0.1 forbids null in more columns
    return check_schema(table, schema, plan_uri(output))


@lru_cache(maxsize=1)
def _read_footer(plan: storage.StoredFile) -> pq.FileMetaData:
    """At 1.2M rows a footer has 5 MB and takes 75 ms to parse: once for each process, not for each
    unit."""
    with storage.open_to_read(plan.uri, block_mib=1) as file:
        return pq.read_metadata(file)


def read_planned_keys(output: str) -> Iterator[list[str]]:
    """Keys of every unit's rows, in order; opens the plan once."""
    with storage.open_to_read(plan_uri(output)) as file:
        table = pq.ParquetFile(file)
        key = table.schema_arrow.names[0]
        for unit in range(table.num_row_groups):
            found = table.read_row_group(unit, columns=[key])[key]
            yield [str(value) for value in found.to_pylist()]


def take_first(tables: Sequence[pa.Table], limit: int) -> list[pa.Table]:
    """The first `limit` rows of all tables together; later tables become empty."""
    kept = []
    for table in tables:
        kept.append(table.slice(0, limit))
        limit -= kept[-1].num_rows
    return kept


def _number_units(input_rows: list[int], unit_size: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    parts, first = [np.zeros(0, np.int32)], 0
    for rows in input_rows:
        parts.append((first + np.arange(rows) // unit_size).astype(np.int32))
        first += -(-rows // unit_size)
    return np.concatenate(parts)


def _refuse_repeated_keys(rows: pa.Table, key: str) -> None:
    if pc.count_distinct(rows[key]).as_py() == rows.num_rows:
        return
    seen: set[str] = set()
    for value in rows[key].to_pylist():
        if value in seen:
            raise InputError(str(value), f"this {key} occurs twice; every row needs its own")
        seen.add(str(value))
