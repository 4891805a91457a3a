"""Zip files: the index of their images, and reading them."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from s4v_core import storage
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
from s4v_core.inputs.tar import Damage, Member
from s4v_core.inputs.tar_shards import collect_sidecars, find_captioned_keys

_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError),
    *(RuntimeError, EOFError, ValueError, OSError),
)
"""Errors of zipfile: damages, unknown compressions, and passwords."""


def index_zip(shard: Shard, account: ShardAccount) -> Iterator[Row]:
    """Yield one row per image member of a zip, in the order of its directory."""
    with storage.open_to_read(shard.uri, block_mib=1) as file:
        try:
            archive = zipfile.ZipFile(file)
        except _BROKEN:
            account.damages.append(Damage("not_a_zip", 0))
            return
        texts = _read_sidecars(archive)
        sidecars = collect_sidecars(texts)
        captioned = find_captioned_keys(texts, shard.only_missing)
        keys: set[str] = set()
        for number, member in enumerate(archive.infolist()):
            if member.is_dir():
                continue
            if not _can_be_image(archive, member):
                account.skipped += find_ending(member.filename) not in SIDECARS
                continue
            key, _ = split_name(member.filename)
            if key in captioned:
                account.captioned += 1
                continue
            yield build_row(
                image_id=f"{shard.name}/{key}" + (f"#{number}" if key in keys else ""),
                uri=shard.uri,
                container="zip",
                row=number,
                length=member.file_size,
                etag=shard.etag,
                member=member.filename,
                payload=sidecars.get(key),
                source=storage.base_name(storage.parent(shard.uri)),
            )
            keys.add(key)


def read_zip_rows(rows: Sequence[dict[str, Any]]) -> list[bytes | str]:
    """The bytes of planned members of one zip, or the reason for none: `truncated` where the zip
    is damaged or encrypted."""
    with storage.open_to_read(rows[0]["uri"], block_mib=1) as file:
        try:
            archive = zipfile.ZipFile(file)
        except _BROKEN:
            return ["source_changed"] * len(rows)
        members = archive.infolist()
        return [
            _read_member(archive, members[row["row"]])
            if row["row"] < len(members) and members[row["row"]].filename == row["member"]
            else "source_changed"
            for row in rows
        ]


def _read_sidecars(archive: zipfile.ZipFile) -> list[Member]:
    found = []
    for member in archive.infolist():
        is_text = find_ending(member.filename) in SIDECARS
        if is_text and not member.is_dir() and member.file_size <= MAX_SIDECAR_BYTES:
            data = _read_member(archive, member)
            if isinstance(data, bytes):
                found.append(Member(member.filename, 0, len(data), True, data))
    return found


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | str:
    try:
        with archive.open(member) as file:
            data = file.read(member.file_size)
            file.read(1)  # at its end the checksum is compared
            return data
    except _BROKEN:
        return "truncated"


def _can_be_image(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    name = member.filename
    if name.startswith("__MACOSX/") or is_companion(name):
        return False
    if is_image(name):
        return True
    try:
        with archive.open(member) as data:
            return starts_as_image(data.read(HEAD_BYTES))
    except _BROKEN:
        return False
