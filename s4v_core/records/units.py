"""The commit rule: a unit is done if and only if its one Parquet file exists under OUTPUT/captions.

No ledger, no lock, no clock: resuming is one listing minus the plan. Readers take
`OUTPUT/captions/*.parquet` and nothing else.
"""

import io
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.failpoints import reach
from s4v_core.records.schemas import RESULT_SCHEMA, STATUSES, check_schema

FOLDER = "captions"
FOOTER_BYTES = 64 << 10
"""A unit's footer has about 3 kB; its account is in it."""

_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    # What queries skip files by; statistics of all columns would add 5 kB to each unit's file.
    "write_statistics": ["image_id", "source", "status", "reason"],
    # Parquet's own types say all of RESULT_SCHEMA: Arrow's copy would be half of a footer.
    "store_schema": False,
}

_NAME = re.compile(r"unit-(\d{6,})\.parquet$")
_KEY = b"s4v.unit"
_END = b"PAR1"
_ACCOUNT = re.compile(rb"[^{]{2,4}(\{[^\0]*\})\0")
"""What follows the key in a footer: type and length of the text, the text, the pair's end."""


@dataclass(frozen=True, slots=True)
class UnitAccount:
    """What a unit's file says of itself in its footer."""

    unit: int
    plan: str
    run_id: str
    rows: int
    ok: int
    rejected: int
    error: int
    output_tokens: int
    attempts: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def captions_folder(output: str) -> str:
    return storage.join(output, FOLDER)


def unit_uri(output: str, unit: int) -> str:
    """The one name that the result of a unit can have."""
    return storage.join(output, FOLDER, f"unit-{unit:06d}.parquet")


def done_units(output: str) -> set[int]:
    """Units whose file exists: one listing."""
    return set(commit_times(output))


def commit_times(output: str) -> dict[int, float]:
    """Units whose file exists, and when each was written (seconds since 1970)."""
    folder = captions_folder(output)
    if not storage.is_folder(folder):
        return {}
    files = storage.list_files(folder)
    return {int(m[1]): f.modified_s for f in files if (m := _NAME.search(f.uri))}


def commit_unit(
    output: str, unit: int, plan_digest: str, run_id: str, rows: pa.Table, heal: bool = False
) -> tuple[UnitAccount, bool]:
    """Make a unit's rows durable in one write.

    Args:
        rows: RESULT_SCHEMA, all images of the unit.
        heal: Replace the file that is there instead of leaving it.

    Returns:
        The account of the file that now lies there, and whether this call wrote it.

    Raises:
        SchemaError: The rows are not result rows.
        StorageError: The store refuses, or what lies there is no result of this plan.
    """
    uri = unit_uri(output, unit)
    check_schema(rows, RESULT_SCHEMA, uri)
    account = _account(unit, plan_digest, run_id, rows)
    data = _encoded(rows, account)
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
    found = read_account(output, unit)
    if (found.plan, found.rows) != (plan_digest, rows.num_rows):
        raise StorageError(uri, "holds rows of another plan; nothing was overwritten")
    return found, found.run_id == run_id  # a write of our own whose answer was lost


def file_bytes(rows: pa.Table) -> int:
    """Size of the file that these rows (RESULT_SCHEMA) would make as a unit."""
    return len(_encoded(rows, _account(0, "0" * 64, "run", rows)))


def read_unit(output: str, unit: int) -> pa.Table:
    """A unit's result rows, in one GET, so that a replacement in between cannot mix two files."""
    uri = unit_uri(output, unit)
    table = _parquet(uri).read()
    return check_schema(table.replace_schema_metadata(), RESULT_SCHEMA, uri)


def read_account(output: str, unit: int) -> UnitAccount:
    """A unit's account, from its footer."""
    uri = unit_uri(output, unit)
    try:
        tail = storage.read_tail(uri, FOOTER_BYTES)
        account = _seen_account(tail) or _parsed_account(tail)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(uri, f"is no complete Parquet file: {error}") from None
    if account is None:
        raise StorageError(uri, "is no unit of a caption run")
    return UnitAccount(**json.loads(account))


def _seen_account(tail: bytes) -> bytes | None:
    """The account where this module's files have it, behind all that rows can say; None where
    anything differs. Taking 5,000 footers apart would be most of what `status.py` does."""
    at = tail.rfind(_KEY)
    if at < 0 or not tail.endswith(_END):
        return None
    found = _ACCOUNT.match(tail, at + len(_KEY))
    return found[1] if found else None


def _parsed_account(tail: bytes) -> bytes | None:
    return (pq.read_metadata(io.BytesIO(tail)).metadata or {}).get(_KEY)


def _parquet(uri: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(io.BytesIO(storage.read(uri)))
    except pa.ArrowInvalid as error:
        raise StorageError(uri, f"is no complete Parquet file: {error}") from None


def _encoded(rows: pa.Table, account: UnitAccount) -> bytes:
    sink = io.BytesIO()
    schema = rows.schema.remove_metadata()
    with pq.ParquetWriter(sink, schema, **_FORMAT) as file:
        file.write_table(rows)
        file.add_key_value_metadata({_KEY.decode(): json.dumps(asdict(account))})
    return sink.getvalue()


def _account(unit: int, plan_digest: str, run_id: str, rows: pa.Table) -> UnitAccount:
    counts = Counter(rows["status"].to_pylist())
    by_status = {status: counts[status] for status in STATUSES}
    return UnitAccount(
        unit,
        plan_digest,
        run_id,
        rows.num_rows,
        **by_status,
        output_tokens=sum(filter(None, rows["output_tokens"].to_pylist())),
        attempts=sum(filter(None, rows["attempts"].to_pylist())),
        reasons=dict(Counter(filter(None, rows["reason"].to_pylist()))),
    )
