"""Indexing shards of images as a Ray Data job: one task per shard, results in the shards' order."""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from s4v_core import storage
from s4v_core.flow.brake import Brake
from s4v_core.flow.pipeline import silence_ray_data
from s4v_core.inputs.indexing import INDEX_SCHEMA, ShardAccount, index_tables
from s4v_core.inputs.shards import Shard


def index_shards(
    shards: Sequence[Shard], on_shard: Callable[[int], None]
) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """Rows (INDEX_SCHEMA) and account of every shard.

    Args:
        on_shard: Called with the number of images of each shard that is done.

    Raises:
        InputError: A Parquet or JSON that names no images.
    """
    silence_ray_data()
    DataContext.get_current().max_errored_blocks = 0  # a shard that cannot be indexed ends it
    brake = Brake()
    tables: list[pa.Table] = [INDEX_SCHEMA.empty_table()] * len(shards)
    accounts: list[dict[str, Any]] = [{}] * len(shards)
    items = [{"number": n, "shard": pickle.dumps(shard)} for n, shard in enumerate(shards)]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _index_item, fn_kwargs={"brake": brake}, num_cpus=1
    )
    try:
        for row in dataset.iter_rows():
            tables[row["number"]] = pa.ipc.open_stream(row["table"]).read_all()
            accounts[row["number"]] = json.loads(row["account"])
            on_shard(accounts[row["number"]]["images"])
    except ray.exceptions.RayError as error:
        raise (brake.first_failure() or error) from error
    return tables, accounts


def _index_item(item: dict[str, Any], brake: Brake) -> dict[str, Any]:
    shard = pickle.loads(item["shard"])
    with brake.reporting(), storage.patience(storage.UNIT_PATIENCE_S):
        found = ShardAccount()
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, INDEX_SCHEMA) as writer:
            for table in index_tables(shard, found):
                writer.write_table(table)
    account = json.dumps(found.describe(shard))
    return {"number": item["number"], "table": sink.getvalue(), "account": account}
