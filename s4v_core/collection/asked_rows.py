"""The requests that a task would send for planned rows, without sending any."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.captioning.task import CaptionTask
from s4v_core.collection.answer_store import make_key
from s4v_core.engines.requests import Generation, OnPiece, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.flow.loading import load_rows


@dataclass(frozen=True, slots=True)
class AskedRow:
    """The first request about one row, and the name of its answer."""

    unit: int
    key: str
    request: Request
    sampling: SamplingConfig


def list_requests(task: CaptionTask, planned: list[dict[str, Any]]) -> Iterator[AskedRow]:
    """The first request about each of some planned rows; rows that cannot be asked have none."""
    with storage.patience(storage.UNIT_PATIENCE_S):
        rows, contents = load_rows(planned, task.reads_payloads, task.max_file_bytes, task.web)
    for row, content in zip(rows, contents, strict=True):
        prepared, recorder = task.prepare(row, content), _Recorder()
        asyncio.run(task.answer(prepared.about, prepared.pictures, recorder))
        for request, sampling in recorder.asked[:1]:
            yield AskedRow(row["unit"], make_key(request, sampling), request, sampling)


class _Recorder:
    """Takes requests in an engine's place, and answers none."""

    version = "none"

    def __init__(self) -> None:
        self.asked: list[tuple[Request, SamplingConfig]] = []

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        self.asked.append((request, sampling))
        return fail("not_sent")
