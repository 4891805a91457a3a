"""The log of which worker trained on which sample in which step. It proves that no sample was used
twice in an epoch or left out.

Each worker writes one file for the steps since its last checkpoint, before the next checkpoint is
made. Steps whose checkpoint is missing are done again, so their files are removed at a resumption.
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

_FOLDER = "seen"

_FIELDS: list["pa.Field[Any]"] = [
    pa.field("step", pa.int64(), nullable=False),
    pa.field("worker", pa.int32(), nullable=False),
    pa.field("sample", pa.int64(), nullable=False),
    # Why the sample taught nothing: the reason that its image could not be read.
    pa.field("reason", pa.string()),
]
_SCHEMA = pa.schema(_FIELDS)
"""One row per sample and step; `sample` is the row of the sample in the table of samples."""


@dataclass(frozen=True, slots=True)
class SampleAudit:
    """Facts about a run that its sample log proves.

    Attributes:
        seen: Number of rows in the log.
        twice: Number of samples that one epoch holds more than once.
        left_out: Number of samples that a finished epoch does not hold.
        skipped: Number of samples that taught nothing, by reason.
    """

    seen: int
    twice: int
    left_out: int
    skipped: dict[str, int]


class SampleLog:
    """The sample log of one worker.

    Args:
        first_step: The first step that is not yet in the log, counted from 0.
    """

    def __init__(self, output: str, worker: int, first_step: int) -> None:
        self._output, self._worker = output, worker
        self._first = first_step
        self._rows: list[dict[str, object]] = []

    def add(self, step: int, micro_batches: list[MicroBatch]) -> None:
        """Remember the samples of a step; `write` makes them durable."""
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
        uri = storage.join(self._output, _FOLDER, name)
        sink = io.BytesIO()
        pq.write_table(table_of(self._rows, _SCHEMA, uri), sink, compression="zstd")
        storage.replace(uri, sink.getvalue())
        self._rows, self._first = [], next_step


def discard_after(output: str, done: int) -> None:
    """Remove the files with steps after the first `done` ones, because these are done again."""
    for uri, end in _list_files(output):
        if end > done:
            storage.remove(uri)


def audit_samples(output: str, samples: int, steps_per_epoch: int, steps: int) -> SampleAudit:
    """Check the log of the first `steps` steps, epoch by epoch.

    Args:
        samples: Number of samples of an epoch.
    """
    counts: dict[int, Counter[int]] = {}
    skipped: Counter[str] = Counter()
    for uri, _ in _list_files(output):
        # In this thread alone: a thread of Arrow that lets go of a Python file while the
        # interpreter ends aborts the process ("terminate called without an active exception").
        table = pq.ParquetFile(io.BytesIO(storage.read(uri))).read(use_threads=False)
        for step, sample, reason in zip(
            *(table[n].to_pylist() for n in ("step", "sample", "reason")), strict=True
        ):
            counts.setdefault(step // steps_per_epoch, Counter())[sample] += 1
            if reason:
                skipped[reason] += 1
    finished = steps // steps_per_epoch
    left_out = sum(samples - len(counts.get(epoch, {})) for epoch in range(finished))
    twice = sum(n > 1 for epoch in counts.values() for n in epoch.values())
    return SampleAudit(sum(c.total() for c in counts.values()), twice, left_out, dict(skipped))


def _list_files(output: str) -> Iterator[tuple[str, int]]:
    """The URI of each file, and the first step that is not in it any more."""
    folder = storage.join(output, _FOLDER)
    if not storage.is_folder(folder):
        return
    for file in storage.list_files(folder):
        _, end, _ = storage.base_name(file.uri).split("-")
        yield file.uri, int(end)
