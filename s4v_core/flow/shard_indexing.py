"""Indexing shards of images as a Ray Data job: one task per shard, whose rows stream out."""

import io
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from s4v_core import storage
from s4v_core.flow.brake import Brake
from s4v_core.flow.pipeline import silence_ray_data
from s4v_core.inputs.indexing import INDEX_SCHEMA, ShardAccount, index_tables
from s4v_core.inputs.shards import Shard
from s4v_core.records.row_spool import RowSpool

_BLOCK_BYTES = 4 << 20
"""Rows that a task hands on together: a shard of millions of rows must not have to fit anywhere."""


def index_shards(
    shards: Sequence[Shard], spool: RowSpool, on_rows: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Put the rows (INDEX_SCHEMA) of every shard into the spool.

    Args:
        on_rows: Called with the number of further images that were found.

    Returns:
        The account of every shard.

    Raises:
        InputError: A table that names no images.
    """
    silence_ray_data()
    context = DataContext.get_current()
    context.max_errored_blocks = 0  # a shard that cannot be indexed ends it
    context.target_max_block_size = _BLOCK_BYTES
    accounts: list[dict[str, Any]] = [{}] * len(shards)
    items = [{"number": n, "shard": pickle.dumps(shard)} for n, shard in enumerate(shards)]
    with closing(Brake()) as brake:
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _index_item, fn_kwargs={"brake": brake}, num_cpus=1, batch_size=1
        )
        try:
            for row in dataset.iter_rows():
                if row["account"]:
                    accounts[row["number"]] = json.loads(row["account"])
                    continue
                table = pa.ipc.open_stream(row["table"]).read_all()
                spool.add(row["number"], row["part"], table)
                on_rows(table.num_rows)
        except ray.exceptions.RayError as error:
            raise (brake.first_failure() or error) from error
    return accounts


def _index_item(batch: dict[str, Any], brake: Brake) -> Iterator[dict[str, list[Any]]]:
    """Rows in parts, and at last the account."""
    number, shard = int(batch["number"][0]), pickle.loads(batch["shard"][0])
    account = ShardAccount()
    with brake.reporting(), storage.patience(storage.UNIT_PATIENCE_S):
        for part, table in enumerate(index_tables(shard, account)):
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, INDEX_SCHEMA) as writer:
                writer.write_table(table)
            yield {"number": [number], "part": [part], "table": [sink.getvalue()], "account": [""]}
    about = json.dumps(account.describe(shard))
    yield {"number": [number], "part": [-1], "table": [b""], "account": [about]}
