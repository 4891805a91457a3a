"""The contract of a kind of run: folder, columns and key of its result rows.

The plan, the unit files, the flow and everything that reads a run know no kind of row but through
its contract.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

COMMON_FIELDS: tuple["pa.Field[Any]", ...] = (
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    # 0: no attempt was needed, for what `reason` says or because the answer was already known.
    pa.field("attempts", pa.int32(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
)
"""Columns that every result row has, whatever its kind."""

SHARD_FIELD = pa.field("shard", pa.string())
"""Column of rows that may have files: the tar below OUTPUT that holds them; null: none."""

STATUSES = ("ok", "rejected", "error")
"""ok: an answer; rejected: an answer that a quality check refused; error: no answer. The column
`reason` says why."""


@dataclass(frozen=True, slots=True)
class Words:
    """How a kind of run speaks to people.

    Attributes:
        rows: What one row is about, in the plural: images.
        made: What was done to a row: captioned.
        answers: What a row holds when it is ok, in the plural: captions.
    """

    rows: str = "rows"
    made: str = "answered"
    answers: str = "answers"

    @property
    def short(self) -> str:
        """One row in a few letters: img."""
        return {"images": "img"}.get(self.rows, self.rows.removesuffix("s"))


@dataclass(frozen=True, slots=True)
class Contract:
    """The result rows of one kind of run. Small and picklable.

    Attributes:
        folder: Folder below OUTPUT that holds the unit files; also the name of the kind.
        schema: Columns of a result row; COMMON_FIELDS and the key are among them.
        key: Column that identifies a row, unique within a run.
        sums: Integer columns whose sums stand in each unit's account.
        statistics: Columns with Parquet statistics, by which queries can skip files.
        words: How messages name rows and answers.
        shards: Folder below OUTPUT for tars with the files of rows (`unit_shards.py`); empty: rows
            have no files.
    """

    folder: str
    schema: pa.Schema
    key: str
    sums: tuple[str, ...] = ("attempts",)
    statistics: tuple[str, ...] = ("status", "reason")
    words: Words = Words()
    shards: str = ""

    @classmethod
    def of_unknown_kind(cls, folder: str, key: str) -> "Contract":
        """A contract with the common columns alone, enough to count and prove a run of any kind."""
        return cls(folder, result_schema(key), key)

    def __post_init__(self) -> None:
        own = (SHARD_FIELD,) if self.shards else ()
        for field in (pa.field(self.key, pa.string(), nullable=False), *COMMON_FIELDS, *own):
            has_field = field in list(self.schema)
            assert has_field, f"the schema of {self.folder} must have the column {field}"


def result_schema(key: str, *own: "pa.Field[Any]") -> pa.Schema:
    """The columns of a kind of run: its key, its own columns, and COMMON_FIELDS."""
    return pa.schema([pa.field(key, pa.string(), nullable=False), *own, *COMMON_FIELDS])
