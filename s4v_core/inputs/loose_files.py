"""Index of the loose image files of one folder. Opens no file."""

import json
from collections.abc import Iterator

from s4v_core import storage
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row
from s4v_core.inputs.shards import Shard, relative_name, split_name
from s4v_core.storage import StoredFile


def index_files(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per image file, with the sidecar of the same name."""
    # In reverse order, so that `x.json` replaces `x.txt`.
    sidecars = sorted(shard.sidecars, key=lambda file: file.uri, reverse=True)
    texts = {split_name(file.uri)[0]: file for file in sidecars}
    for file in shard.files:
        name = relative_name(file.uri, shard.uri)
        text = texts.get(split_name(file.uri)[0])
        yield build_row(
            image_id=name,
            uri=file.uri,
            container="file",
            length=file.size,
            etag=file.etag,
            source=name.split("/")[0] if "/" in name else storage.base_name(shard.uri),
            payload=_name_sidecar(text) if text else None,
        )


def _name_sidecar(file: StoredFile) -> str | None:
    """A reference to a sidecar, which is not read: one request per image would double the pass."""
    return json.dumps({"uri": file.uri})
