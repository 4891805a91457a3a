"""The interface of a task: one kind of work on rows. Everything else about a run is the flow's.

The flow reads a planned row's bytes, hands both to the task, packs the pictures that come back,
keeps the engine alive, and commits the task's result rows unit by unit. A task knows nothing of
units, files, workers or faults.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from s4v_core.engines.metering import Meter
from s4v_core.engines.requests import Generator, Picture
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.records.contract import Contract

Row = dict[str, Any]
"""A result row: one value per column of the task's contract."""

T = TypeVar("T")


def stamp_row(row: Row, run_id: str) -> Row:
    """A task's row with the columns that the flow adds."""
    return row | {"run_id": run_id, "created_at": datetime.now(UTC)}


@dataclass(frozen=True, slots=True)
class Prepared(Generic[T]):
    """A row on its way to the engine.

    Attributes:
        about: Whatever the task wants to know again when it asks the engine; small and picklable.
        pictures: Images that the row's requests will show.
    """

    about: T
    pictures: tuple[Picture, ...] = ()


class Task(ABC, Generic[T]):
    """One kind of work: how a planned row becomes a result row. Small and picklable.

    Attributes:
        contract: The result rows.
        picture_bytes: Most bytes that the pictures of one row take; 0 if rows have no pictures.
        reads_payloads: Whether payloads that the plan only names (loose sidecar files) are read.
        web: How URLs that rows name are fetched.
        max_file_bytes: Largest file that a row may name; None if there is no limit.
        meter: Allows each request to an endpoint; None allows all.
    """

    contract: Contract
    picture_bytes: int = 0
    reads_payloads: bool = False
    max_file_bytes: int | None = None
    web: WebPolicy = WebPolicy()
    meter: Meter | None = None

    @abstractmethod
    def prepare(self, planned: dict[str, Any], content: bytes | str | None) -> Prepared[T]:
        """Make a planned row ready for the engine, on a CPU worker.

        Args:
            planned: One row of the plan (`plan_schema`).
            content: The row's bytes; or the reason why there are none; None if its plan names no
                file.
        """

    @abstractmethod
    async def answer(self, about: T, pictures: tuple[Picture, ...], engine: Generator) -> Row:
        """The result row of one prepared row, but for `run_id` and `created_at`, which the flow
        adds.

        Runs for many rows at once, in the worker that holds the engine.
        """

    @abstractmethod
    def fail(self, about: T, reason: str) -> Row:
        """The result row of a prepared row that no worker survived; as from `answer`."""

    def without_neighbours(self) -> "Task[T]":
        """This task for rows that are tried alone, which must not wait for rows elsewhere."""
        return self
