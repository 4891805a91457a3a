"""Index of a tar shard in the WebDataset layout: an image and its sidecars share a key."""

from collections.abc import Iterator

from s4v_core import storage
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row
from s4v_core.inputs.shards import NOT_IMAGES, SIDECARS, Shard, find_ending, split_name
from s4v_core.inputs.tar import Member, TarIndex, index_tar, index_tar_gz

_MAX_SIDECAR_BYTES = 64 << 10


def index_tar_shard(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield, for a tar or a compressed tar, one row per image member."""
    found = _read_members(shard)
    sidecars = _collect_sidecars(found.members)
    account.damages += found.damages
    source = storage.base_name(storage.parent(shard.uri))
    keys: set[str] = set()
    for number, member in enumerate(found.members):
        if _is_attribute_file(member.name):
            continue
        key, ending = split_name(member.name)
        if ending in NOT_IMAGES:
            account.skipped += ending not in SIDECARS
            continue
        yield build_row(
            # Two images with one key both get rows; the later id has the member's number.
            image_id=f"{shard.name}/{key}" + (f"#{number}" if key in keys else ""),
            uri=shard.uri,
            container=shard.kind,
            offset=member.offset,
            length=member.length,
            etag=shard.etag,
            source=source,
            payload=sidecars.get(key),
            problem=None if member.whole else "truncated",
        )
        keys.add(key)


def _read_members(shard: Shard) -> TarIndex:
    with storage.open_to_read(shard.uri) as file:
        if shard.kind == "targz":
            return index_tar_gz(file, _is_sidecar)
        return index_tar(file, shard.size, _is_sidecar)


def _is_sidecar(name: str, length: int) -> bool:
    return find_ending(name) in SIDECARS and length <= _MAX_SIDECAR_BYTES


def _collect_sidecars(members: list[Member]) -> dict[str, str]:
    """Text of the `.json` member of each key, or else of its `.txt` member."""
    found: dict[str, str] = {}
    for member in members:
        if member.data is None or _is_attribute_file(member.name):
            continue
        key, ending = split_name(member.name)
        if ending == "json" or key not in found:
            found[key] = member.data.decode("utf-8", "replace")
    return found


def _is_attribute_file(name: str) -> bool:
    """Whether it is a file like `._x.jpg`, in which macOS stores the attributes of `x.jpg`."""
    return "._" in name and storage.base_name(name).startswith("._")
