"""Indexes a shard: one row per image with all that is needed to read it later, and an account.

Opens shards and keeps no image bytes. Nothing is dropped silently: what cannot be read becomes a
row with a problem, a damage of the shard, or a count.
"""

from s4v_core.errors import StorageError
from s4v_core.inputs.json_records import index_json
from s4v_core.inputs.loose_files import index_files
from s4v_core.inputs.parquet_shards import index_parquet
from s4v_core.inputs.shard_index import INDEX_SCHEMA, ShardIndex
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Damage
from s4v_core.inputs.tar_shards import index_tar_shard
from s4v_core.storage import UnreachableError

__all__ = ["INDEX_SCHEMA", "ShardIndex", "index_shard"]

_INDEXERS = {
    "files": index_files,
    "tar": index_tar_shard,
    "targz": index_tar_shard,
    "parquet": index_parquet,
    "json": index_json,
}


def index_shard(shard: Shard) -> ShardIndex:
    """Read the structure of a shard.

    A shard that cannot be read at all has a damage; the pass continues without it and reports it.

    Raises:
        InputError: A Parquet or JSON has no column or field that names images.
        UnreachableError: The store did not answer for as long as the caller's patience lasted.
    """
    try:
        return _INDEXERS[shard.kind](shard)
    except UnreachableError:
        raise  # transient: running the same command again tries again
    except (StorageError, FileNotFoundError):
        return ShardIndex(damages=[Damage("unreadable", 0)])
