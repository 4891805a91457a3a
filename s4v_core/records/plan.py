"""The plan: every image of a run in units, one row group each, written once, never edited.

A pure function of listing and settings, so that two first starts write the same bytes.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.failpoints import reach
from s4v_core.inputs.indexing import INDEX_SCHEMA
from s4v_core.inputs.shards import Shard
from s4v_core.records.schemas import PLAN_SCHEMA, UNIT_SIZE, check_schema

PLAN_NAME = "plan.parquet"
_KEY = b"s4v.plan"


@dataclass(frozen=True, slots=True)
class PlanHead:
    """What the plan says of itself, without its rows.

    Attributes:
        digest: Of settings and listing; every unit's file carries it.
        settings: All that changes a result row, as `name: value`.
        listing_digest: Of name, size and tag of every input file.
        shards: One account per shard (`ShardIndex.account`).
        unit_rows: Images of each unit.
        renamed: Image ids that were taken already and got a number.
    """

    digest: str
    settings: dict[str, Any]
    listing_digest: str
    shards: list[dict[str, Any]]
    unit_rows: list[int]
    renamed: int

    @property
    def images(self) -> int:
        return sum(self.unit_rows)

    @property
    def damaged(self) -> list[dict[str, Any]]:
        """Accounts of the shards that are not proven complete."""
        return [shard for shard in self.shards if shard["damages"]]


def plan_uri(output: str) -> str:
    return storage.join(output, PLAN_NAME)


def digest_listing(shards: Iterable[Shard]) -> str:
    """Changes when a file of the input appears, disappears or changes."""
    whole = hashlib.sha256()
    for shard in shards:
        for line in shard.listing:
            whole.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return whole.hexdigest()


def build_plan(
    tables: list[pa.Table],
    accounts: list[dict[str, Any]],
    settings: Mapping[str, Any],
    listing_digest: str,
    limit: int | None = None,
    unit_size: int = UNIT_SIZE,
) -> tuple[PlanHead, pa.Table]:
    """Cut the rows of each shard (INDEX_SCHEMA, in order) into units; no unit spans two shards."""
    if limit is not None:
        tables = _limited(tables, limit)
    units = _unit_numbers([t.num_rows for t in tables], unit_size)
    rows = pa.concat_tables([INDEX_SCHEMA.empty_table(), *tables])
    ids, renamed = _unique([str(i) for i in rows["image_id"].to_pylist()])
    rows = rows.set_column(0, INDEX_SCHEMA.field("image_id"), pa.array(ids, pa.string()))
    table = rows.add_column(1, PLAN_SCHEMA.field("unit"), pa.array(units, pa.int32()))
    unit_rows = np.bincount(units).tolist() if len(units) else []
    whole = json.dumps([dict(settings), listing_digest], sort_keys=True)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    head = PlanHead(digest, dict(settings), listing_digest, accounts, unit_rows, renamed)
    return head, table.select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA)


def write_plan(output: str, head: PlanHead, table: pa.Table) -> PlanHead:
    """Write the plan unless there is one already.

    Returns:
        The head of the plan that now lies there: the caller's, or that of whoever was first.
    """
    about = {name: getattr(head, name) for name in PlanHead.__slots__}
    schema = PLAN_SCHEMA.with_metadata({_KEY: json.dumps(about).encode()})
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
    """The head of the plan of a run's folder, or None where nothing was planned."""
    uri = plan_uri(output)
    if storage.stat(uri) is None:
        return None
    with storage.open_to_read(uri, block_mib=1) as file:
        metadata = pq.read_schema(file).metadata
    return PlanHead(**json.loads(metadata[_KEY]))


def read_planned_unit(output: str, unit: int) -> pa.Table:
    """The rows of one unit (PLAN_SCHEMA); reads that row group alone.

    Raises:
        FileNotFoundError: There is no plan.
    """
    found = storage.stat(plan_uri(output))
    if found is None:
        raise FileNotFoundError(plan_uri(output))
    with storage.open_to_read(found.uri, block_mib=1) as file:
        table = pq.ParquetFile(file, metadata=_footer(found)).read_row_group(unit)
    return check_schema(table.replace_schema_metadata(), PLAN_SCHEMA, plan_uri(output))


@lru_cache(maxsize=1)
def _footer(plan: storage.StoredFile) -> pq.FileMetaData:
    """At 1.2M images 5 MB, and 75 ms to parse: once for each process, not for each unit."""
    with storage.open_to_read(plan.uri, block_mib=1) as file:
        return pq.read_metadata(file)


def planned_ids(output: str) -> Iterator[list[str]]:
    """Image ids of every unit, in order; opens the plan once."""
    with storage.open_to_read(plan_uri(output)) as file:
        table = pq.ParquetFile(file)
        for unit in range(table.num_row_groups):
            ids = table.read_row_group(unit, columns=["image_id"])["image_id"]
            yield [str(image_id) for image_id in ids.to_pylist()]


def _limited(tables: list[pa.Table], limit: int) -> list[pa.Table]:
    kept = []
    for table in tables:
        kept.append(table.slice(0, limit))
        limit -= kept[-1].num_rows
    return kept


def _unit_numbers(shard_rows: list[int], unit_size: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    parts, first = [np.zeros(0, np.int32)], 0
    for rows in shard_rows:
        parts.append((first + np.arange(rows) // unit_size).astype(np.int32))
        first += -(-rows // unit_size)
    return np.concatenate(parts)


def _unique(ids: list[str]) -> tuple[list[str], int]:
    """Ids that are taken already get the smallest free number: `a.jpg`, `a.jpg#2`."""
    taken: set[str] = set()
    renamed = 0
    for at, image_id in enumerate(ids):
        number = 1
        while ids[at] in taken:
            number += 1
            ids[at] = f"{image_id}#{number}"
        taken.add(ids[at])
        renamed += number > 1
    return ids, renamed
