"""Reads the rows of a plan: of one unit in their newest versions, or all of them."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.records.plan import PlanPart, list_digests, read_footer, require_plan_head
from s4v_core.records.schemas import check_schema, plan_schema
from s4v_core.records.units import UnitFolder

_OLD_PAYLOAD = "sidecar"  # the payload's name in plans of version 0.1, which can be resumed


def read_planned_unit(
    output: str, unit: int, parts: tuple[PlanPart, ...] | None = None
) -> pa.Table:
    """The planned rows of one unit (`plan_schema`), in their newest versions.

    Args:
        parts: The parts that count; by default all that are there.

    Raises:
        InputError: There is no plan.
        FileNotFoundError: It has no such unit.
    """
    found: pa.Table | None = None
    for part in require_plan_head(output).parts if parts is None else parts:
        group = part.find_group(unit)
        if group is not None:
            rows = _read_group(part, group)
            found = rows if found is None else _renew_rows(found, rows)
    if found is None:
        raise FileNotFoundError(f"{output}: the plan has no unit {unit}")
    return found


def read_planned_keys(output: str) -> Iterator[list[str]]:
    """Keys of every unit's rows, in order; opens each part once."""
    for part in require_plan_head(output).parts:
        with storage.open_to_read(part.uri) as source:
            table = pq.ParquetFile(source, metadata=read_footer(part))
            key = table.schema_arrow.names[0]
            for group in range(len(part.renewed), table.num_row_groups):
                found = table.read_row_group(group, columns=[key])[key]
                yield [str(value) for value in found.to_pylist()]


def read_new_rows(part: PlanPart) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and rows (`plan_schema`) of every new unit of a part."""
    for unit in range(part.first_unit, part.first_unit + part.units):
        yield unit, _read_group(part, len(part.renewed) + unit - part.first_unit)


def read_renewed_rows(part: PlanPart) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and renewed rows (`plan_schema`) of every unit that a part renews."""
    for group, unit in enumerate(part.renewed):
        yield unit, _read_group(part, group)


def find_outdated_keys(
    units: UnitFolder, parts: tuple[PlanPart, ...], unit: int
) -> set[str] | None:
    """Keys of the rows in a unit's file whose places hold something else since; None if there is
    no file.

    A file that carries a digest of a later part than `parts` is not outdated.
    """
    if not units.exists(unit):
        return None
    digests = list_digests(parts, unit)
    if len(digests) == 1:
        return set()
    made_for = units.read_account(unit).plan
    if made_for not in digests[:-1]:
        return set()
    newer, keys = digests[digests.index(made_for) + 1 :], set[str]()
    for part in parts:
        group = part.find_group(unit)
        if part.digest in newer and group is not None:
            rows = _read_group(part, group)
            keys |= set(map(str, rows[rows.column_names[0]].to_pylist()))
    return keys


def _read_group(part: PlanPart, group: int) -> pa.Table:
    with storage.open_to_read(part.uri, block_mib=1) as source:
        table = pq.ParquetFile(source, metadata=read_footer(part)).read_row_group(group)
    names = ["payload" if name == _OLD_PAYLOAD else name for name in table.column_names]
    table = table.replace_schema_metadata().rename_columns(names)
    schema = plan_schema(names[0])
    for field in schema:  # that plans of earlier versions do not have
        if field.nullable and field.name not in names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if set(table.column_names) == set(schema.names):
        table = table.select(schema.names).cast(schema)  # version 0.1 forbids null in more columns
    return check_schema(table, schema, part.uri)


def _renew_rows(rows: pa.Table, renewed: pa.Table) -> pa.Table:
    """A unit's rows, with the renewed ones in the places of the old."""
    key = rows.column_names[0]
    newer = {row[key]: row for row in renewed.to_pylist()}
    whole = [newer.get(row[key], row) for row in rows.to_pylist()]
    return pa.Table.from_pylist(whole, schema=rows.schema)
