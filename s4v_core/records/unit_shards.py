"""Files that belong to result rows, such as images that an engine drew: tars beside the unit files.

A unit's tar is written before the unit's own file, whole and create-only, and its name holds a hash
of its content. Only a tar that a row names counts. So a kill between the two writes loses nothing:
the next run writes the same tar under the same name, or another one under another name.
"""

import hashlib
import io
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.failpoints import reach
from s4v_core.records.contract import Contract
from s4v_core.records.units import UnitFolder

RowFiles = list[dict[str, Any]] | None
"""The files of a row: `ending` (png) and `content` of each; None: it has none."""

FILES_FIELD: "pa.Field[Any]" = pa.field(
    "files",
    pa.list_(pa.struct([pa.field("ending", pa.string()), pa.field("content", pa.large_binary())])),
)
"""Column of rows on their way to the commit, in runs whose rows have files."""

_NAME = re.compile(r"unit-(\d{6,})-[0-9a-f]{16}\.tar$")

_SAFE_AGE_S = 3600.0
"""Age from which a tar that no row names is left over: a younger one may belong to a unit that
another run is about to commit."""


@dataclass(frozen=True, slots=True)
class UnitShards:
    """The tars of one run: OUTPUT/<shards>/unit-000042-<hash>.tar. Small and picklable."""

    output: str
    contract: Contract

    @property
    def folder(self) -> str:
        return storage.join(self.output, self.contract.shards)

    def write(self, unit: int, rows: pa.Table, files: Sequence[RowFiles]) -> pa.Table:
        """Make the files of a unit's rows durable; returns the rows with the name of their tar.

        Members are named `<key>.<ending>`; they stand in the order of the rows.

        Raises:
            StorageError: The store refuses.
        """
        keys = [str(key) for key in rows[self.contract.key].to_pylist()]
        has_files = [bool(one) for one in files]
        name = None
        if any(has_files):
            data = _pack(keys, files)
            name = f"unit-{unit:06d}-{hashlib.sha256(data).hexdigest()[:16]}.tar"
            uri = storage.join(self.folder, name)
            reach("before_shard_put")
            # A file of that name holds these very bytes, whoever wrote it.
            storage.create(uri, data)
            reach("after_shard_put")
        places = [f"{self.contract.shards}/{name}" if one else None for one in has_files]
        at = rows.schema.get_field_index("shard")
        return rows.set_column(at, rows.schema.field(at), pa.array(places, pa.string()))

    def remove_leftovers(self, units: UnitFolder) -> int:
        """Remove tars that no row names, of runs that were killed or were slower than another.

        Returns:
            How many were removed.
        """
        if not storage.is_folder(self.folder):
            return 0
        oldest = time.time() - _SAFE_AGE_S
        removed = 0
        for file in storage.list_files(self.folder):
            found = _NAME.search(file.uri)
            if not found or file.modified_s > oldest or not units.exists(int(found[1])):
                continue
            if storage.base_name(file.uri) not in self.list_named(units, int(found[1])):
                storage.remove(file.uri)
                removed += 1
        return removed

    def list_named(self, units: UnitFolder, unit: int) -> set[str]:
        """Names of the tars that the rows of a unit name."""
        named = units.read(unit)["shard"].drop_null().to_pylist()
        return {storage.base_name(str(one)) for one in named}

    def read(self, shard: str) -> Iterator[tuple[str, str, bytes]]:
        """Key, ending and content of every file of a tar, by the name that rows give it; nothing if
        there is no such tar."""
        uri = storage.join(self.output, shard)
        if not storage.exists(uri):
            return
        with tarfile.open(fileobj=io.BytesIO(storage.read(uri))) as tar:
            for member in tar:
                key, _, ending = member.name.rpartition(".")
                content = tar.extractfile(member)
                assert content, "these tars hold regular files alone"
                yield key, ending, content.read()


def check_shard_key(key: str) -> None:
    """Check that a key can name members of a tar, from which readers get it back.

    Raises:
        InputError: It cannot.
    """
    is_name = re.fullmatch(r"[\w-]+(/[\w-]+)*", key)
    if not is_name:
        raise InputError(
            key, "cannot name an image; letters, digits, '_', '-' and '/' between them are allowed"
        )


def _pack(keys: Sequence[str], files: Sequence[RowFiles]) -> bytes:
    """A tar without times and owners: the same files make the same bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, found in zip(keys, files, strict=True):
            for file in found or ():
                member = tarfile.TarInfo(f"{key}.{file['ending']}")
                member.size = len(file["content"])
                tar.addfile(member, io.BytesIO(file["content"]))
    return sink.getvalue()
