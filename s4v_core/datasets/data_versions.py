"""Versions of the data sets of a run, so that data that are edited after its start are noticed."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from s4v_core import storage
from s4v_core.datasets.conversations import is_json
from s4v_core.records import plan
from s4v_core.records.captions import caption_units

_CHUNK_BYTES = 1 << 20

DataVersion = dict[str, Any]
"""Version of a data set: size and etag of a file, and the sha256 of its content, or of the listing
of a caption run. All are None if there is no such data set."""


def read_versions(data: Sequence[str]) -> dict[str, DataVersion]:
    """The version of each data set, by its URI."""
    return {uri: _read_version(uri) for uri in data}


def find_changed(data: Sequence[str], before: Mapping[str, DataVersion]) -> list[str]:
    """The data sets that hold something else than before, each as a part of a sentence.

    A file that was only touched or copied again is the same. One that is gone is not named: what
    was read from it is still known.
    """
    changed = []
    for uri in data:
        old = before.get(uri)
        if old is None:
            continue
        file = storage.stat(uri) if is_json(uri) else None
        if file and (file.size, file.etag) == (old["size"], old["etag"]):
            continue
        new = _read_version(uri)
        if new["sha256"] is not None and new["sha256"] != old["sha256"]:
            changed.append(f"{uri} ({_describe(old)} then, {_describe(new)} now)")
    return changed


def _read_version(uri: str) -> DataVersion:
    if is_json(uri):
        file = storage.stat(uri)
        if file is None:
            return {"size": None, "etag": None, "sha256": None}
        return {"size": file.size, "etag": file.etag, "sha256": _digest_file(uri)}
    head = plan.read_plan_head(uri) if storage.is_folder(uri) else None
    if head is None:
        return {"size": None, "etag": None, "sha256": None}
    folder = caption_units(uri, head.settings).folder
    files = storage.list_files(folder) if storage.is_folder(folder) else []
    lines = [part.digest for part in head.parts]
    lines += sorted(f"{storage.base_name(f.uri)} {f.size} {f.etag}" for f in files)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"size": sum(file.size for file in files), "etag": "", "sha256": digest}


def _digest_file(uri: str) -> str:
    digest = hashlib.sha256()
    with storage.open_to_read(uri) as file:
        while part := file.read(_CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _describe(version: DataVersion) -> str:
    return f"{version['size']:,} bytes, sha256 {version['sha256'][:8]}"
