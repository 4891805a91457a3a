"""The commit rule: a unit is done if and only if its one Parquet file exists in the run's folder.

There is no ledger, no lock and no clock: resuming is one listing minus the plan. Readers take
`OUTPUT/<folder>/*.parquet` and nothing else.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.failpoints import reach
from s4v_core.records.contract import STATUSES, Contract
from s4v_core.records.schemas import check_schema

_FOOTER_BYTES = 64 << 10
"""Bytes read to find a unit's account: its footer has about 3 kB."""

_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    # Parquet's own types say all that the schema says: Arrow's copy would be half of a footer.
    "store_schema": False,
}

_NAME = re.compile(r"unit-(\d{6,})\.parquet$")
_KEY = b"s4v.unit"
_END = b"PAR1"
_ACCOUNT = re.compile(rb"[^{]{2,4}(\{[^\0]*\})\0")
"""The bytes after the key in a footer: type and length of the text, the text, the pair's end."""


@dataclass(frozen=True, slots=True)
class UnitAccount:
    """The account that a unit's file gives of itself in its footer.

    Attributes:
        plan: Digest of the plan that the unit belongs to.
        reasons: Rows by reason, for the rows that are not ok.
        sums: Sums of the contract's integer columns, by column.
    """

    unit: int
    plan: str
    run_id: str
    rows: int
    ok: int
    rejected: int
    error: int
    reasons: dict[str, int] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """The account as it stands in a footer; the sums stand beside the other fields."""
        about = asdict(self)
        return json.dumps(about.pop("sums") | about)

    @classmethod
    def from_json(cls, text: str | bytes) -> "UnitAccount":
        """The account that `to_json` wrote."""
        found = json.loads(text)
        about = {name: found.pop(name) for name in cls.__slots__ if name in found}
        return cls(**about, sums=found)


@dataclass(frozen=True, slots=True)
class UnitFolder:
    """The unit files of one run: OUTPUT/<folder>/unit-000042.parquet. Small and picklable."""

    output: str
    contract: Contract

    @property
    def folder(self) -> str:
        return storage.join(self.output, self.contract.folder)

    def uri(self, unit: int) -> str:
        """The one name that the result of a unit can have."""
        return storage.join(self.folder, f"unit-{unit:06d}.parquet")

    def exists(self, unit: int) -> bool:
        return storage.exists(self.uri(unit))

    def list_done(self) -> set[int]:
        """Units whose file exists: one listing."""
        return set(self.list_commit_times())

    def list_commit_times(self) -> dict[int, float]:
        """Units whose file exists, and when each was written (seconds since 1970)."""
        if not storage.is_folder(self.folder):
            return {}
        files = storage.list_files(self.folder)
        return {int(m[1]): f.modified_s for f in files if (m := _NAME.search(f.uri))}

    def commit(
        self, unit: int, plan_digest: str, run_id: str, rows: pa.Table, heal: bool = False
    ) -> tuple[UnitAccount, bool]:
        """Make a unit's rows durable in one write.

        Args:
            rows: All rows of the unit, in the contract's schema.
            heal: Replace the file that is there instead of leaving it.

        Returns:
            The account of the file that now lies there, and whether this call wrote it.

        Raises:
            SchemaError: The rows are not rows of the contract.
            StorageError: The store refuses, or what lies there is no result of this plan.
        """
        uri = self.uri(unit)
        check_schema(rows, self.contract.schema, uri)
        account = self._count(unit, plan_digest, run_id, rows)
        data = self._encode(rows, account)
        if heal:
            reach("before_heal_put")
            storage.replace(uri, data)
            reach("after_heal_put")
            return account, True
        reach("before_unit_put")
        wrote = storage.create(uri, data)
        reach("after_unit_put")
        if wrote:
            return account, True
        found = self.read_account(unit)
        if (found.plan, found.rows) != (plan_digest, rows.num_rows):
            raise StorageError(uri, "holds rows of another plan; nothing was overwritten")
        return found, found.run_id == run_id  # our own write may have succeeded unanswered

    def measure_bytes(self, rows: pa.Table) -> int:
        """Size in bytes of the file that these rows would make as a unit."""
        return len(self._encode(rows, self._count(0, "0" * 64, "run", rows)))

    def read(self, unit: int) -> pa.Table:
        """A unit's result rows, in one GET, so that a replacement meanwhile cannot mix two files.

        Raises:
            StorageError: The file is no complete Parquet file.
            SchemaError: It holds rows of another contract.
        """
        table = _fill_in_newer(self._read_file(unit), self.contract.schema)
        return check_schema(table, self.contract.schema, self.uri(unit))

    def read_columns(self, unit: int, names: Sequence[str]) -> pa.Table:
        """Some of the contract's columns of a unit's rows, whatever others the file has; nulls for
        those that an earlier version did not write.

        Raises:
            StorageError: The file is no complete Parquet file.
        """
        table = self._read_file(unit)
        for name in set(names) - set(table.column_names):
            kind = self.contract.schema.field(name).type
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
        return table.select(list(names))

    def read_common(self, unit: int) -> pa.Table:
        """Key, status and reason of a unit's rows, whatever other columns the file has.

        Raises:
            StorageError: The file is no complete Parquet file, or lacks these columns.
        """
        try:
            return self._read_file(unit, [self.contract.key, "status", "reason"])
        except KeyError as error:
            raise StorageError(self.uri(unit), f"lacks a column: {error}") from None

    def read_account(self, unit: int) -> UnitAccount:
        """A unit's account, from its footer.

        Raises:
            StorageError: The file is no complete Parquet file, or no unit.
        """
        uri = self.uri(unit)
        try:
            tail = storage.read_tail(uri, _FOOTER_BYTES)
            account = _cut_account(tail) or _parse_account(tail)
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(uri, f"is no complete Parquet file: {error}") from None
        if account is None:
            raise StorageError(uri, f"is no unit of a run of {self.contract.folder}")
        return UnitAccount.from_json(account)

    def _read_file(self, unit: int, columns: list[str] | None = None) -> pa.Table:
        uri = self.uri(unit)
        try:
            table = pq.ParquetFile(io.BytesIO(storage.read(uri))).read()
        except pa.ArrowInvalid as error:
            raise StorageError(uri, f"is no complete Parquet file: {error}") from None
        table = table.replace_schema_metadata()
        return table.select(columns) if columns else table

    def _encode(self, rows: pa.Table, account: UnitAccount) -> bytes:
        sink = io.BytesIO()
        # Statistics of all columns would add 5 kB to each unit's file.
        statistics: Any = list(self.contract.statistics)
        schema = rows.schema.remove_metadata()
        with pq.ParquetWriter(sink, schema, write_statistics=statistics, **_FORMAT) as file:
            file.write_table(rows)
            file.add_key_value_metadata({_KEY.decode(): account.to_json()})
        return sink.getvalue()

    def _count(self, unit: int, plan_digest: str, run_id: str, rows: pa.Table) -> UnitAccount:
        counts = Counter(rows["status"].to_pylist())
        reasons = Counter(filter(None, rows["reason"].to_pylist()))
        return UnitAccount(
            unit,
            plan_digest,
            run_id,
            rows.num_rows,
            **{status: counts[status] for status in STATUSES},
            reasons=dict(reasons),
            sums={name: pc.sum(rows[name]).as_py() or 0 for name in self.contract.sums},
        )


def _fill_in_newer(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with all columns of its schema: a file of an earlier version has no values in those
    that came since, all of which may be null."""
    missing = [one for one in schema if one.nullable and one.name not in table.schema.names]
    for one in missing:
        table = table.append_column(one, pa.nulls(table.num_rows, one.type))
    is_complete = missing and set(table.schema.names) == set(schema.names)
    return table.select(schema.names) if is_complete else table


def _cut_account(tail: bytes) -> bytes | None:
    """Fast path: cut the account out of the footer's bytes; None if the layout is not the one this
    module writes. Parsing 5,000 footers would be most of what `status.py` does.

    The last key is the account's: whatever rows hold stands in front of it.
    """
    at = tail.rfind(_KEY)
    if at < 0 or not tail.endswith(_END):
        return None
    found = _ACCOUNT.match(tail, at + len(_KEY))
    return found[1] if found else None


def _parse_account(tail: bytes) -> bytes | None:
    return (pq.read_metadata(io.BytesIO(tail)).metadata or {}).get(_KEY)
