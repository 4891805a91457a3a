"""Compares the rows of an input with those of a plan: what is new, what is another file in the same
place, and what is gone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core.records.plan import PlanHead
from s4v_core.records.plan_writing import hash_keys
from s4v_core.records.planned_rows import read_new_rows, read_renewed_rows
from s4v_core.records.row_spool import RowSpool
from s4v_core.records.schemas import index_schema, table_of

Row = dict[str, Any]
_Hashes = np.ndarray[Any, np.dtype[np.int64]]

_NUMBER = re.compile(r"#\d+$")
"""The end of an id that keeps it apart from another one of the same name."""


@dataclass(slots=True)
class Growth:
    """The differences between an input and a plan.

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

    def __init__(self, head: PlanHead) -> None:
        self._key = head.key
        names = {account["uri"]: account.get("name") for account in head.inputs}
        renewed = {
            row[self._key]: find_version(row)
            for part in head.parts
            for _, table in read_renewed_rows(part)
            for row in table.to_pylist()
        }
        places = _Places()
        self._rows: dict[int, tuple[int, int, str]] = {}
        self.hashes: _Hashes = np.zeros(head.rows, np.int64)
        at = 0
        for part in head.parts:
            for unit, table in read_new_rows(part):
                self.hashes[at : at + table.num_rows] = hash_keys(table[self._key])
                at += table.num_rows
                for row in table.to_pylist():
                    key = row[self._key]
                    place = places.number(_name_planned_place(row, key, names))
                    self._rows[place] = (unit, renewed.get(key, find_version(row)), key)

    def compare(self, tables: Iterable[tuple[int, pa.Table]], new: RowSpool) -> Growth:
        """Compare the rows of an input with the planned ones.

        Args:
            tables: Number of each input, and its rows.
            new: Gets the new rows.
        """
        places, seen = _Places(), 0
        renewed: dict[int, list[Row]] = {}
        schema = index_schema(self._key)
        for part, (number, table) in enumerate(tables):
            fresh = []
            for at, row in enumerate(table.to_pylist()):
                planned = self._find(places, row)
                if planned is None:
                    fresh.append(at)
                    continue
                seen += 1
                unit, version, key = planned
                if version != find_version(row):
                    renewed.setdefault(unit, []).append(row | {self._key: key})
            if fresh:
                new.add(number, part, table.take(fresh))
        tables_by_unit = {unit: table_of(rows, schema, "plan") for unit, rows in renewed.items()}
        return Growth(new.input_rows, tables_by_unit, len(self._rows) - seen)

    def _find(self, places: "_Places", row: Row) -> tuple[int, int, str] | None:
        """The planned row in the place of a row: its unit, version and key."""
        place = places.number(_name_place(row))
        if row["member"] is None or place in self._rows:
            return self._rows.get(place)
        is_archive = row["container"] != "parquet"
        key = _cut_ending(row["member"]) if is_archive else row["member"]
        return self._rows.get(places.number(("key", row["uri"], key)))


class _Places:
    """Numbers places, so that the second row of one place has a number of its own."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def number(self, place: tuple[object, ...]) -> int:
        name = hash(place)
        self._counts[name] += 1
        return hash((name, self._counts[name]))


def _name_place(row: Row) -> tuple[object, ...]:
    """The place of a row, which stays the same when an input is listed again."""
    if row["container"] == "file":
        return ("file", row["uri"] or row["member"])
    if row["member"] is not None:
        return ("member", row["uri"], row["member"])
    return ("row", row["uri"], row["row"], row["offset"])


def _name_planned_place(row: Row, key: str, names: Mapping[str, str | None]) -> tuple[object, ...]:
    """The same of a planned row. Plans of earlier versions do not name members."""
    if row["member"] is not None or row["container"] == "file":
        return _name_place(row)
    if row["container"] is None:
        return ("key", key)
    return ("key", row["uri"], _NUMBER.sub("", key.removeprefix(f"{names.get(row['uri'])}/")))


def _cut_ending(member: str) -> str:
    """The key of a member, as ids of earlier versions are made of it."""
    stem, dot, ending = member.rpartition(".")
    return stem if dot and "/" not in ending and not stem.endswith("/") and stem else member


def find_version(row: Row) -> int:
    """A number that changes when the place of a row holds something else."""
    return hash((row["etag"], row["offset"], row["length"]))
