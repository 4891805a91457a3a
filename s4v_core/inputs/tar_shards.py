"""Index of a tar shard in the WebDataset layout: an image and its sidecars share a key."""

from collections.abc import Iterator

from s4v_core import storage
from s4v_core.inputs.captioned import is_caption
from s4v_core.inputs.file_kinds import (
    HEAD_BYTES,
    MAX_SIDECAR_BYTES,
    SIDECARS,
    find_ending,
    is_companion,
    is_image,
    split_name,
    starts_as_image,
)
from s4v_core.inputs.shard_index import Row, ShardAccount, build_row
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.tar import Member, TarIndex, index_packed_tar, index_tar
from s4v_core.inputs.unpacking import name_compression


def index_tar_shard(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield, for a tar or a compressed tar, one row per image member.

    The first bytes say whether the tar is compressed: names like `.tar` and `.tar.gz` are mixed
    up.
    """
    container, found = _read_members(shard)
    account.damages += found.damages
    sidecars = collect_sidecars(found.members)
    captioned = find_captioned_keys(found.members, shard.only_missing)
    keys: set[str] = set()
    for number, member in enumerate(found.members):
        if not _can_be_image(member):
            account.skipped += not _is_sidecar(member.name)
            continue
        key, _ = split_name(member.name)
        if key in captioned:
            account.captioned += 1
            continue
        row = _build_member_row(shard, member.name, key, f"#{number}" if key in keys else "")
        yield row | {
            "container": container,
            "offset": member.offset,
            "length": member.length,
            "payload": sidecars.get(key),
            "problem": None if member.whole else "truncated",
        }
        keys.add(key)
    for name in filter(is_image, found.loose_ends):
        key, _ = split_name(name)
        yield _build_member_row(shard, name, key, "#link") | {"problem": "not_found"}


def _build_member_row(shard: Shard, name: str, key: str, suffix: str) -> Row:
    """Args:
    suffix: Keeps the id unique where another image has the key: both get rows.
    """
    return build_row(
        image_id=f"{shard.name}/{key}{suffix}",
        uri=shard.uri,
        container=shard.kind,
        member=name,
        etag=shard.etag,
        source=storage.base_name(storage.parent(shard.uri)),
    )


def _read_members(shard: Shard) -> tuple[str, TarIndex]:
    """The tar's container as the plan names it, and its members."""
    with storage.open_to_read(shard.uri) as file:
        compression = name_compression(file.read(8))
        file.seek(0)
        if compression:
            return "targz", index_packed_tar(file, compression, _count_kept)
        size = shard.size or file.seek(0, 2)  # a server may not say it
        file.seek(0)
        return "tar", index_tar(file, size, _count_kept)


def _count_kept(name: str, length: int) -> int:
    if _is_sidecar(name):
        return length if length <= MAX_SIDECAR_BYTES else 0
    return 0 if is_image(name) or is_companion(name) else min(length, HEAD_BYTES)


def _can_be_image(member: Member) -> bool:
    if is_image(member.name) or is_companion(member.name):
        return is_image(member.name) and not is_companion(member.name)
    return starts_as_image(member.data or b"")


def _is_sidecar(name: str) -> bool:
    return find_ending(name) in SIDECARS


def find_captioned_keys(members: list[Member], place: str | None) -> set[str]:
    """Keys of the images that have a caption at `place`."""
    if place is None:
        return set()
    return {
        split_name(member.name)[0]
        for member in members
        if member.data is not None
        and is_caption(member.name, member.data.decode("utf-8", "replace"), place)
    }


def collect_sidecars(members: list[Member]) -> dict[str, str]:
    """Text of the `.json` member of each key, or else of its `.txt` member."""
    found: dict[str, str] = {}
    for member in members:
        key, ending = split_name(member.name)
        if member.data is None or ending not in SIDECARS:
            continue
        if ending == "json" or key not in found:
            found[key] = member.data.decode("utf-8", "replace")
    return found
