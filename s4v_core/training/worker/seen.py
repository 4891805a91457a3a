"""Which worker saw which sample in which step: the proof that none was seen twice or left out.

Written before each checkpoint, one file per worker and stretch of steps; a stretch without its
checkpoint is done again, and its files are taken away.
"""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.records.schemas import table_of
from s4v_core.training.data.collation import MicroBatch

FOLDER = "seen"

_FIELDS: list["pa.Field[Any]"] = [
    pa.field("step", pa.int64(), nullable=False),
    pa.field("worker", pa.int32(), nullable=False),
    pa.field("sample", pa.int64(), nullable=False),
    # Why it taught nothing: its image could not be read.
    pa.field("reason", pa.string()),
]
SEEN_SCHEMA = pa.schema(_FIELDS)
"""One row per sample and step; `sample` is its place in the table of samples."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What the files say about a run.

    Attributes:
        seen: Rows.
        twice: Samples that one epoch holds more than once.
        left_out: Samples that a finished epoch does not hold.
        skipped: Rows by reason.
    """

    seen: int
    twice: int
    left_out: int
    skipped: dict[str, int]


class SeenLog:
    """Of one worker."""

    def __init__(self, output: str, worker: int, first_step: int) -> None:
        self._output, self._worker = output, worker
        self._first = first_step
        self._rows: list[dict[str, object]] = []

    def add(self, step: int, micro_batches: list[MicroBatch]) -> None:
        for batch in micro_batches:
            reasons = dict(batch.skipped)
            self._rows += [
                {"step": step, "worker": self._worker, "sample": n, "reason": reasons.get(n)}
                for n in batch.numbers
            ]

    def write(self, next_step: int) -> None:
        """Make the rows of all steps before `next_step` durable."""
        if next_step == self._first:
            return
        name = f"{self._first:08d}-{next_step:08d}-{self._worker:04d}.parquet"
        uri = storage.join(self._output, FOLDER, name)
        sink = io.BytesIO()
        pq.write_table(table_of(self._rows, SEEN_SCHEMA, uri), sink, compression="zstd")
        storage.replace(uri, sink.getvalue())
        self._rows, self._first = [], next_step


def forget_from(output: str, step: int) -> None:
    """Take away what was written for steps that are done again."""
    for uri, (_, end) in _files(output):
        if end > step:
            storage.remove(uri)


def audit(output: str, samples: int, steps_per_epoch: int, steps: int) -> Audit:
    """Count what was seen, epoch by epoch, of `steps` steps."""
    counts: dict[int, Counter[int]] = {}
    skipped: Counter[str] = Counter()
    for uri, _ in _files(output):
        table = pq.read_table(io.BytesIO(storage.read(uri)))
        for step, sample, reason in zip(
            *(table[n].to_pylist() for n in ("step", "sample", "reason")), strict=True
        ):
            counts.setdefault(step // steps_per_epoch, Counter())[sample] += 1
            if reason:
                skipped[reason] += 1
    full = steps // steps_per_epoch
    left_out = sum(samples - len(counts.get(epoch, {})) for epoch in range(full))
    twice = sum(n > 1 for epoch in counts.values() for n in epoch.values())
    return Audit(sum(c.total() for c in counts.values()), twice, left_out, dict(skipped))


def _files(output: str) -> Iterator[tuple[str, tuple[int, int]]]:
    folder = storage.join(output, FOLDER)
    if not storage.is_folder(folder):
        return
    for file in storage.list_files(folder):
        first, end, _ = storage.base_name(file.uri).split("-")
        yield file.uri, (int(first), int(end))
