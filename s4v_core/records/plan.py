"""The plan: every row of a run in units, one row group each, written once and never edited.

An input that grows adds further parts: plan.parquet, plan-2.parquet, ... A part holds units of new
rows, and new versions of rows of earlier units, whose places hold something else now.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError, StorageError
from s4v_core.records.schemas import check_schema, plan_schema

PLAN_NAME = "plan.parquet"
PLAN_KEY = b"s4v.plan"
"""Key of the footer's entry that holds the head."""

_OLD_PAYLOAD = "sidecar"  # the payload's name in plans of version 0.1, which can be resumed


@dataclass(frozen=True, slots=True)
class PlanPart:
    """One file of a plan. Small and picklable.

    Attributes:
        digest: Hash of settings and listing; the files of its units carry it.
        first_unit: Number of its first new unit.
        units: Number of its new units.
        renewed: Units of earlier parts of which it has new versions of rows.
        removed: Rows of earlier parts that the input no longer had.
    """

    uri: str
    digest: str
    first_unit: int
    units: int
    renewed: tuple[int, ...] = ()
    removed: int = 0


@dataclass(frozen=True, slots=True)
class PlanHead:
    """The plan without its rows, all parts together.

    Attributes:
        digest: Hash of settings and listing of the first part.
        settings: Everything that changes a result row, as `name: value`.
        listing_digest: Hash of name, size and tag of every input file, as the last part saw them.
        inputs: One account per input (`ShardAccount.describe` for shards of images).
        unit_rows: Rows of each unit.
        renamed: Rows whose key another row had already, so that they got a number.
        kind: Folder of the unit files, which is the name of the kind of run.
        key: Column that identifies a row.
        parts: The files of the plan.
    """

    digest: str
    settings: dict[str, Any]
    listing_digest: str
    inputs: list[dict[str, Any]]
    unit_rows: list[int]
    renamed: int
    kind: str = "captions"
    key: str = "image_id"
    parts: tuple[PlanPart, ...] = ()

    STORED: ClassVar[tuple[str, ...]] = (
        *("digest", "settings", "listing_digest", "inputs", "unit_rows", "renamed", "kind", "key"),
    )
    """Fields that stand in the footer of a part, about that part alone."""

    @property
    def rows(self) -> int:
        return sum(self.unit_rows)

    @property
    def units(self) -> range:
        return range(len(self.unit_rows))

    @property
    def removed(self) -> int:
        """Planned rows that the input no longer has."""
        return self.parts[-1].removed if self.parts else 0

    @property
    def renewed(self) -> set[int]:
        """Units of which a later part has new versions of rows."""
        return {unit for part in self.parts for unit in part.renewed}

    @property
    def damaged(self) -> list[dict[str, Any]]:
        """Accounts of the inputs that are not proven complete."""
        return [account for account in self.inputs if account.get("damages")]

    def find_digest(self, unit: int) -> str:
        """The digest that the file of a unit carries when it is up to date."""
        return list_digests(self.parts, unit)[-1] if self.parts else self.digest


def part_uri(output: str, number: int) -> str:
    """The file of a part of the plan; the first is number 1."""
    return storage.join(output, PLAN_NAME if number == 1 else f"plan-{number}.parquet")


def list_digests(parts: tuple[PlanPart, ...], unit: int) -> list[str]:
    """The digests that the file of a unit may carry, oldest first."""
    return [
        part.digest
        for part in parts
        if part.first_unit <= unit < part.first_unit + part.units or unit in part.renewed
    ]


def read_plan_head(output: str) -> PlanHead | None:
    """The head of the plan of a run's folder, or None if nothing was planned there.

    Raises:
        InputError: A file has the name of a plan and is none.
    """
    heads: list[dict[str, Any]] = []
    parts: list[PlanPart] = []
    for file in _list_part_files(output):
        about = _read_part(file)[1]
        heads.append(about)
        parts.append(_build_part(file.uri, about))
    if not heads:
        return None
    first, last = heads[0], heads[-1]
    stored = {name: first[name] for name in PlanHead.STORED if name in first}
    whole = {
        "inputs": last["inputs"],
        "listing_digest": last["listing_digest"],
        "unit_rows": [rows for head in heads for rows in head["unit_rows"]],
        "renamed": sum(head["renamed"] for head in heads),
    }
    return PlanHead(**stored | whole, parts=tuple(parts))


def is_plan(uri: str) -> bool:
    """Whether a Parquet file is the plan of a run, and no other table of that name."""
    try:
        with storage.open_to_read(uri, block_mib=1) as file:
            return PLAN_KEY in (pq.read_schema(file).metadata or {})
    except (pa.ArrowInvalid, StorageError, FileNotFoundError):
        return False


def require_plan_head(output: str) -> PlanHead:
    """The head of the plan of a run's folder.

    Raises:
        InputError: Nothing was planned there.
    """
    head = read_plan_head(output)
    if head is None:
        raise InputError(output, f"holds no run (there is no {PLAN_NAME})")
    return head


def read_planned_unit(
    output: str, unit: int, parts: tuple[PlanPart, ...] | None = None
) -> pa.Table:
    """The planned rows of one unit (`plan_schema`), in their newest versions; reads that row group
    of each part alone.

    Args:
        parts: The parts that count; by default all that are there.

    Raises:
        FileNotFoundError: There is no plan, or it has no such unit.
    """
    found: pa.Table | None = None
    for file in _list_part_files(output, parts):
        footer, about = _read_part(file)
        part = _build_part(file.uri, about)
        if unit in part.renewed:
            group = part.renewed.index(unit)
        elif part.first_unit <= unit < part.first_unit + part.units:
            group = len(part.renewed) + unit - part.first_unit
        else:
            continue
        rows = _read_group(file, footer, group)
        found = rows if found is None else _renew_rows(found, rows)
    if found is None:
        raise FileNotFoundError(part_uri(output, 1))
    return found


def read_planned_keys(output: str) -> Iterator[list[str]]:
    """Keys of every unit's rows, in order; opens each part once."""
    for file in _list_part_files(output):
        renewed = len(_build_part(file.uri, _read_part(file)[1]).renewed)
        with storage.open_to_read(file.uri) as source:
            table = pq.ParquetFile(source)
            key = table.schema_arrow.names[0]
            for group in range(renewed, table.num_row_groups):
                found = table.read_row_group(group, columns=[key])[key]
                yield [str(value) for value in found.to_pylist()]


def read_planned_rows(output: str) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and rows (`plan_schema`) of every unit, part by part.

    Units of which a later part has new versions come again, with these rows alone.
    """
    for file in _list_part_files(output):
        footer, about = _read_part(file)
        part = _build_part(file.uri, about)
        new = range(part.first_unit, part.first_unit + part.units)
        for group, unit in enumerate((*part.renewed, *new)):
            yield unit, _read_group(file, footer, group)


def find_renewed_keys(output: str, parts: tuple[PlanPart, ...], unit: int, plan: str) -> set[str]:
    """Keys of the rows of a unit whose versions are newer than a file that carries the digest
    `plan`."""
    newer = list_digests(parts, unit)
    newer = newer[newer.index(plan) + 1 :] if plan in newer else newer
    keys: set[str] = set()
    for file in _list_part_files(output, parts):
        footer, about = _read_part(file)
        part = _build_part(file.uri, about)
        if part.digest in newer and unit in part.renewed:
            rows = _read_group(file, footer, part.renewed.index(unit))
            keys |= set(map(str, rows[rows.column_names[0]].to_pylist()))
    return keys


def _list_part_files(
    output: str, parts: tuple[PlanPart, ...] | None = None
) -> Iterator[storage.StoredFile]:
    number = 0
    while parts is None or number < len(parts):
        number += 1
        file = storage.stat(part_uri(output, number))
        if file is None:
            return
        yield file


@lru_cache(maxsize=4)
def _read_part(file: storage.StoredFile) -> tuple[pq.FileMetaData, dict[str, Any]]:
    """Footer and head of a part. At 1.2M rows they have 5 MB and take 75 ms to parse: once for each
    process, not for each unit."""
    with storage.open_to_read(file.uri, block_mib=1) as source:
        try:
            footer = pq.read_metadata(source)
            about = json.loads((footer.metadata or {})[PLAN_KEY])
        except (pa.ArrowInvalid, KeyError):
            raise InputError(file.uri, "is not the plan of a run; choose another folder") from None
    if "shards" in about:  # a plan of version 0.1
        about["inputs"] = about.pop("shards")
    return footer, about


def _build_part(uri: str, about: dict[str, Any]) -> PlanPart:
    return PlanPart(
        uri,
        about["digest"],
        about.get("first_unit", 0),
        len(about["unit_rows"]),
        tuple(about.get("renewed", ())),
        about.get("removed", 0),
    )


def _read_group(file: storage.StoredFile, footer: pq.FileMetaData, group: int) -> pa.Table:
    with storage.open_to_read(file.uri, block_mib=1) as source:
        table = pq.ParquetFile(source, metadata=footer).read_row_group(group)
    names = ["payload" if name == _OLD_PAYLOAD else name for name in table.column_names]
    table = table.replace_schema_metadata().rename_columns(names)
    schema = plan_schema(names[0])
    for field in schema:  # that plans of earlier versions do not have
        if field.nullable and field.name not in names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if set(table.column_names) == set(schema.names):
        table = table.select(schema.names).cast(schema)  # version 0.1 forbids null in more columns
    return check_schema(table, schema, file.uri)


def _renew_rows(rows: pa.Table, renewed: pa.Table) -> pa.Table:
    """A unit's rows, with the renewed ones in the places of the old."""
    key = rows.column_names[0]
    newer = {row[key]: row for row in renewed.to_pylist()}
    whole = [newer.get(row[key], row) for row in rows.to_pylist()]
    return pa.Table.from_pylist(whole, schema=rows.schema)
