"""Compares the rows of an input with those of a plan: what is new, what is another file in the same
place, and what is gone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core.records.plan import PlanHead, read_planned_rows
from s4v_core.records.row_spool import RowSpool
from s4v_core.records.schemas import index_schema, table_of

Row = dict[str, Any]


@dataclass(slots=True)
class Growth:
    """What an input has that a plan does not know.

    Attributes:
        new_rows: Rows of each input that no planned row has the place of; in the spool.
        renewed: Rows of earlier units whose places hold something else now, by unit.
        removed: Planned rows whose places are gone.
    """

    new_rows: list[int] = field(default_factory=list)
    renewed: dict[int, pa.Table] = field(default_factory=dict)
    removed: int = 0


class PlannedRows:
    """The rows of a plan by their places: all of them in memory, some 300 bytes each.

    Attributes:
        hashes: Hashes of the rows' keys (`hash_keys`).
    """

    def __init__(self, output: str, head: PlanHead) -> None:
        self._key = head.key
        names = {account["uri"]: account["name"] for account in head.inputs if "name" in account}
        places, last_unit = _Places(names), -1
        self._rows: dict[int, tuple[int, int, str]] = {}
        hashes: set[int] = set()
        for unit, table in read_planned_rows(output):
            is_renewed = unit <= last_unit
            last_unit = max(last_unit, unit)
            for row in table.to_pylist():
                key = str(row[self._key])
                place = places.find_first(row, key) if is_renewed else places.find(row, key)
                self._rows[place] = (unit, _find_version(row), key)
                hashes.add(hash(key))
        self.hashes = np.fromiter(hashes, np.int64, len(hashes))

    def compare(
        self,
        tables: Iterable[tuple[int, pa.Table]],
        names: Mapping[str, str],
        new: RowSpool,
    ) -> Growth:
        """Compare the rows of an input with the planned ones.

        Args:
            tables: Number of each input, and its rows.
            names: Names of the inputs by URI.
            new: Gets the new rows.
        """
        places, seen = _Places(names), 0
        renewed: dict[int, list[Row]] = {}
        schema = index_schema(self._key)
        for part, (number, table) in enumerate(tables):
            fresh = []
            for at, row in enumerate(table.to_pylist()):
                planned = self._rows.get(places.find(row, row[self._key]))
                if planned is None:
                    fresh.append(at)
                    continue
                seen += 1
                unit, version, key = planned
                if version != _find_version(row):
                    renewed.setdefault(unit, []).append(row | {self._key: key})
            if fresh:
                new.add(number, part, table.take(fresh))
        tables_by_unit = {unit: table_of(rows, schema, "plan") for unit, rows in renewed.items()}
        return Growth(new.input_rows, tables_by_unit, len(self._rows) - seen)


class _Places:
    """Names the place of each row by a number that is the same in every listing of the input."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._counts: Counter[int] = Counter()

    def find(self, row: Row, key: str) -> int:
        """The place of a row; the second row of one place has another number."""
        place = self._name(row, key)
        self._counts[place] += 1
        return hash((place, self._counts[place]))

    def find_first(self, row: Row, key: str) -> int:
        """The place of a row that is the first there, without counting it again."""
        return hash((self._name(row, key), 1))

    def _name(self, row: Row, key: str) -> int:
        uri, container = row["uri"], row["container"]
        if container == "parquet":
            return hash((uri, row["row"], row["offset"]))
        if container == "file" or container is None:
            return hash(uri or key)
        return hash((uri, key.removeprefix(f"{self._names.get(uri)}/")))


def _find_version(row: Row) -> int:
    return hash((row["etag"], row["offset"], row["length"]))
