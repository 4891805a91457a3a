"""Indexes a shard: one row per image with all that is needed to read it later, and an account.

Opens shards and keeps no image bytes. Nothing is dropped silently: what cannot be read becomes a
row with a problem, a damage of the shard, or a count.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pyarrow as pa

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.inputs.captioned import has_text
from s4v_core.inputs.json_records import index_json
from s4v_core.inputs.list_files import index_list
from s4v_core.inputs.loose_files import index_files
from s4v_core.inputs.parquet_shards import index_parquet
from s4v_core.inputs.shard_index import INDEX_SCHEMA, Row, ShardAccount
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage
from s4v_core.inputs.tar_shards import index_tar_shard
from s4v_core.inputs.zip_shards import index_zip
from s4v_core.records.schemas import table_of
from s4v_core.storage import UnreachableError

__all__ = ["INDEX_SCHEMA", "ShardAccount", "index_rows", "index_shard", "index_tables"]

_TABLE_ROWS = 16384
"""Rows that are held as Python values at the same time: some 15 MB."""

_TABLES = ("parquet", "json", "list")

_INDEXERS = {
    "files": index_files,
    "tar": index_tar_shard,
    "targz": index_tar_shard,
    "zip": index_zip,
    "parquet": index_parquet,
    "json": index_json,
    "list": index_list,
}


def index_rows(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row (INDEX_SCHEMA) per image of a shard, in the shard's own order.

    A shard that cannot be read at all has a damage; the pass continues without it and reports it.

    Args:
        account: Complete when the last row was taken.

    Raises:
        InputError: A table has no column or field that names images.
        UnreachableError: The store did not answer for as long as the caller's patience lasted.
    """
    if shard.problem:
        account.damages.append(Damage(shard.problem, 0))
        return
    try:
        for row in _INDEXERS[shard.kind](_with_caption_column(shard), account):
            if shard.kind in _TABLES and _has_caption(row, shard.only_missing):
                account.captioned += 1
                continue
            account.images += 1
            yield row if row["uri"].isascii() or storage.is_utf8(row["uri"]) else _escape(row)
    except UnreachableError:
        raise  # transient: running the same command again tries again
    except (StorageError, FileNotFoundError):
        account.damages.append(Damage("unreadable", 0))


def _escape(row: Row) -> Row:
    """A row whose name no table can hold: names on Linux disks are any bytes."""
    names = ("image_id", "uri", "source", "member")
    escaped = {name: row[name] and storage.escape_name(row[name]) for name in names}
    return row | escaped | {"problem": "bad_name"}


def _with_caption_column(shard: Shard) -> Shard:
    """The shard with the column of the captions among those that are kept."""
    if shard.kind not in _TABLES or shard.only_missing is None:
        return shard
    return replace(shard, columns=tuple(dict.fromkeys((*shard.columns, shard.only_missing))))


def _has_caption(row: Row, column: str | None) -> bool:
    return column is not None and has_text(json.loads(row["payload"] or "{}").get(column))


def index_tables(shard: Shard, account: ShardAccount) -> Iterator[pa.Table]:
    """The rows of `index_rows` as tables, so that a shard of any size takes little memory."""
    rows = index_rows(shard, account)
    while part := list(islice(rows, _TABLE_ROWS)):
        yield table_of(part, INDEX_SCHEMA, shard.uri)


def index_shard(shard: Shard) -> tuple[list[Row], ShardAccount]:
    """All rows of a shard at once, and its account. Raises what `index_rows` raises."""
    account = ShardAccount()
    return list(index_rows(shard, account)), account
