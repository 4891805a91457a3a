"""The plan: every row of a run in units, one row group each, written once and never edited.

An input that grows adds further parts: plan.parquet, plan-2.parquet, ... A part holds units of new
rows, and new versions of rows of earlier units, whose places hold something else now.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.errors import InputError, StorageError

PLAN_NAME = "plan.parquet"
PLAN_KEY = b"s4v.plan"
"""Key of the footer's entry that holds the head."""


@dataclass(frozen=True, slots=True)
class PlanPart:
    """One file of a plan. Small and picklable.

    Attributes:
        digest: Hash of settings and listing; the files of its units carry it.
        first_unit: Number of its first new unit.
        units: Number of its new units.
        renewed: Units of earlier parts of which it has new versions of rows, in order.
        removed: Rows of earlier parts that the input no longer had.
    """

    uri: str
    digest: str
    first_unit: int
    units: int
    renewed: tuple[int, ...] = ()
    removed: int = 0

    def find_group(self, unit: int) -> int | None:
        """Number of the row group with rows of a unit; None if the part has none."""
        if 0 <= unit - self.first_unit < self.units:
            return len(self.renewed) + unit - self.first_unit
        at = bisect_left(self.renewed, unit)
        return at if at < len(self.renewed) and self.renewed[at] == unit else None


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
    return [part.digest for part in parts if part.find_group(unit) is not None]


def read_plan_head(output: str) -> PlanHead | None:
    """The head of the plan of a run's folder, or None if nothing was planned there.

    Raises:
        InputError: A file has the name of a plan and is none.
    """
    heads = [_read_about(file) | {"uri": file.uri} for file in _list_part_files(output)]
    if not heads:
        return None
    first, last = heads[0], heads[-1]
    stored = {name: first[name] for name in PlanHead.STORED if name in first}
    whole = {
        "inputs": _merge_inputs([head["inputs"] for head in heads]),
        "listing_digest": last["listing_digest"],
        "unit_rows": [rows for head in heads for rows in head["unit_rows"]],
        "renamed": sum(head["renamed"] for head in heads),
    }
    return PlanHead(**stored | whole, parts=tuple(map(_build_part, heads)))


def _merge_inputs(accounts_of_parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The newest account of each input, with the first name that it had: keys are made of it.

    Inputs that are gone have no damages: nobody can mend them.
    """
    last = accounts_of_parts[-1]
    if len(accounts_of_parts) == 1:
        return last
    names: dict[str, dict[str, Any]] = {}
    for accounts in accounts_of_parts:
        for account in accounts:
            names.setdefault(account["uri"], account)
    current = {account["uri"] for account in last}
    gone = [account | {"damages": []} for uri, account in names.items() if uri not in current]
    return [account | {"name": names[account["uri"]].get("name")} for account in last] + gone


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


def read_footer(part: PlanPart) -> pq.FileMetaData:
    """The footer of a part.

    Raises:
        FileNotFoundError: There is no such file.
    """
    file = storage.stat(part.uri)
    if file is None:
        raise FileNotFoundError(part.uri)
    return _read_footer(file)


@lru_cache(maxsize=64)
def _read_footer(file: storage.StoredFile) -> pq.FileMetaData:
    """At 1.2M rows a footer has 5 MB and takes 75 ms to parse: once for each process, not for each
    unit."""
    with storage.open_to_read(file.uri, block_mib=1) as source:
        return pq.read_metadata(source)


def _list_part_files(output: str) -> Iterator[storage.StoredFile]:
    for number in count(1):
        file = storage.stat(part_uri(output, number))
        if file is None:
            return
        yield file


def _read_about(file: storage.StoredFile) -> dict[str, Any]:
    with storage.open_to_read(file.uri, block_mib=1) as source:
        try:
            metadata = pq.read_metadata(source).metadata or {}
            about: dict[str, Any] = json.loads(metadata[PLAN_KEY])
        except (pa.ArrowInvalid, KeyError):
            raise InputError(file.uri, "is not the plan of a run; choose another folder") from None
    if "shards" in about:  # a plan of version 0.1
        about["inputs"] = about.pop("shards")
    return about


def _build_part(about: dict[str, Any]) -> PlanPart:
    return PlanPart(
        about["uri"],
        about["digest"],
        about.get("first_unit", 0),
        len(about["unit_rows"]),
        tuple(about.get("renewed", ())),
        about.get("removed", 0),
    )
