"""Index of the loose image files of one folder. Opens only files whose names say nothing."""

import contextvars
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.inputs.captioned import find_captioned
from s4v_core.inputs.file_kinds import (
    HEAD_BYTES,
    MAX_SIDECAR_BYTES,
    relative_name,
    split_name,
    starts_as_image,
)
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row
from s4v_core.inputs.shards import Shard
from s4v_core.storage import StoredFile

_READS = 32
"""Files that are looked into at the same time."""


def index_files(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per image file, with the sidecar of the same name."""
    # In reverse order, so that `x.json` replaces `x.txt`.
    sidecars = sorted(shard.sidecars, key=lambda file: file.uri, reverse=True)
    texts = {split_name(file.uri)[0]: file for file in sidecars}
    captioned = find_captioned(sidecars, shard.only_missing) if shard.only_missing else set()
    account.skipped += shard.companions
    for file in _select_images(shard, account):
        if split_name(file.uri)[0] in captioned:
            account.captioned += 1
            continue
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


def _select_images(shard: Shard, account: ShardAccount) -> Iterator[StoredFile]:
    """The image files in order of their URIs; counts the others among those without a telling
    name."""
    if not shard.unknown:
        yield from shard.files
        return
    context = contextvars.copy_context()  # and with it the caller's patience
    with ThreadPoolExecutor(_READS) as pool:
        looks = pool.map(lambda file: context.copy().run(_may_be_image, file), shard.unknown)
        found = [file for file, is_image in zip(shard.unknown, looks, strict=True) if is_image]
    account.skipped += len(shard.unknown) - len(found)
    yield from sorted((*shard.files, *found), key=lambda file: file.uri)


def _may_be_image(file: StoredFile) -> bool:
    """Whether a file starts as an image. One that cannot be read may be one: it gets a row, and
    with it a reason."""
    if not file.size:
        return False
    try:
        return starts_as_image(
            storage.read_range(file.uri, 0, min(file.size, HEAD_BYTES), file.etag or None)
        )
    except storage.UnreachableError:
        raise
    except (StorageError, FileNotFoundError):
        return True


def _name_sidecar(file: StoredFile) -> str | None:
    """A reference to a sidecar, which is not read: one request per image would double the pass."""
    return json.dumps({"uri": file.uri}) if file.size <= MAX_SIDECAR_BYTES else None
