"""ShareGPT4V / LLaVA JSON: reading its records, and the index of the images that they name."""

from collections.abc import Iterator
from typing import Any

import ijson

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row, dump_columns, resolve_image
from s4v_core.inputs.shards import Shard


def read_records(uri: str) -> Iterator[Any]:
    """Yield the records of a JSON array or of JSON Lines one by one: the released file has 1.5 GB.

    Raises:
        InputError: It is no JSON array.
    """
    lines = uri.endswith(".jsonl")
    with storage.open_to_read(uri) as file:
        try:
            yield from ijson.items(file, "" if lines else "item", multiple_values=lines)
        except ijson.JSONError as error:
            raise InputError(uri, f"not a JSON array of records: {error}") from None


def index_json(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per image that its records name.

    Raises:
        InputError: It is no JSON array, or a record's image is no path.
    """
    root = shard.image_root or storage.parent(shard.uri)
    seen: set[str] = set()
    for number, record in enumerate(read_records(shard.uri)):
        image = record.get("image") if isinstance(record, dict) else None
        if image is None:
            account.skipped += 1
            continue
        if not isinstance(image, str):
            raise InputError(shard.uri, f"record {number}: image: found {image!r}, allowed a path")
        if image in seen:
            account.repeated += 1
            continue
        seen.add(image)
        uri, problem = resolve_image(image, root)
        yield build_row(
            image_id=image,
            uri=uri,
            container="file",
            source=image.split("/")[0] if "/" in image else storage.base_name(root),
            payload=dump_columns(record, shard.columns),
            problem=problem,
        )
