"""Image ids that are unique within a run, whatever the shards call their images."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core.records.plan_writing import find_repeated, hash_keys

_Hashes = np.ndarray[Any, np.dtype[np.int64]]


class UniqueIds:
    """Renames the ids of tables that come one after the other, with 8 bytes of memory per id.

    The first image with an id keeps it. A file of the same id gets the names of more of its folders
    (`a.jpg`, `v2/a.jpg`), anything else the smallest free number (`a`, `a#2`).

    Args:
        ids: Hashes of all ids (`hash_ids`), in the order of the tables.
        earlier: Hashes of ids that are taken already.

    Attributes:
        renamed: Number of ids that will be renamed.
    """

    def __init__(self, ids: _Hashes, earlier: _Hashes | None = None) -> None:
        earlier = np.zeros(0, np.int64) if earlier is None else earlier
        known = np.concatenate([earlier, ids])
        self._known = np.sort(known)
        self._clashing = find_repeated(known)
        self._earlier = self._clashing & set(earlier.tolist()) if self._clashing else set()
        own = ids[~np.isin(ids, earlier)]
        self.renamed = len(ids) - len(np.unique(own))
        self._taken: dict[str, str] = {}  # URIs by id
        self._last_numbers: dict[str, int] = {}

    def rename(self, table: pa.Table) -> pa.Table:
        """The table (INDEX_SCHEMA) with unique ids."""
        if not self._clashing:
            return table
        columns = table.select(["image_id", "uri", "container"]).to_pylist()
        ids = [self._take_id(**row) for row in columns]
        place = table.schema.get_field_index("image_id")
        return table.set_column(place, table.schema.field(place), pa.array(ids, pa.string()))

    def _take_id(self, image_id: str, uri: str, container: str) -> str:
        if hash(image_id) not in self._clashing:
            return image_id
        if image_id not in self._taken and hash(image_id) not in self._earlier:
            self._taken[image_id] = uri
            return image_id
        free = next(filter(self._is_free, self._list_names(image_id, uri, container)))
        self._taken[free] = uri
        return free

    def _list_names(self, image_id: str, uri: str, container: str) -> Iterator[str]:
        is_same_file = self._taken.get(image_id) == uri
        if container == "file" and uri.endswith(f"/{image_id}") and not is_same_file:
            folders = uri[: -len(image_id) - 1].split("/")
            for count in range(1, len(folders)):
                if folders[-count]:
                    yield "/".join((*folders[-count:], image_id))
        while True:
            number = self._last_numbers.get(image_id, 1) + 1
            self._last_numbers[image_id] = number
            yield f"{image_id}#{number}"

    def _is_free(self, name: str) -> bool:
        at = int(np.searchsorted(self._known, hash(name)))
        is_known = at < len(self._known) and self._known[at] == hash(name)
        return name not in self._taken and not is_known


def hash_ids(tables: Iterable[pa.Table]) -> _Hashes:
    """Hashes of the ids of all tables."""
    parts = [hash_keys(table["image_id"]) for table in tables]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def number_repeated_ids(tables: Sequence[pa.Table]) -> tuple[list[pa.Table], int]:
    """The tables with ids that are unique over all of them, and how many images were renamed."""
    ids = UniqueIds(hash_ids(tables))
    return [ids.rename(table) for table in tables], ids.renamed
