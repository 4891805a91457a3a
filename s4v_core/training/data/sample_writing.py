"""Makes the table of samples of a run, once, before any GPU is requested.

Samples that cannot be used are counted, listed and left out; the caller refuses a run with too
many of them.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from s4v_core import storage
from s4v_core.datasets.conversations import Unusable
from s4v_core.datasets.joining import PlacedConversation
from s4v_core.training.data.sample_parts import PARTS_FOLDER, PartEncoder, encode_parts
from s4v_core.training.data.samples import SAMPLES_NAME, SAMPLES_SCHEMA, SampleCounts

_SKIPPED_NAME = "skipped.jsonl"


@dataclass(frozen=True, slots=True)
class WrittenSamples:
    """The table of samples that was written.

    Attributes:
        counts: How many samples it has, and how many were left out.
        sha256: Digest of the table.
    """

    counts: SampleCounts
    sha256: str


def write_samples(
    samples: Iterator[PlacedConversation | Unusable],
    encoder: PartEncoder,
    processes: int | None,
    check: Callable[[SampleCounts, Sequence[Unusable]], None],
    on_samples: Callable[[int], None],
) -> WrittenSamples:
    """Encode all samples and write the table below the output; the table appears whole.

    Args:
        processes: Number of processes that encode (`encode_parts`).
        check: Called with the counts and with all samples that are left out, before the table is
            written; raises if the run must not begin with them.
        on_samples: Called with the number of samples after each part of them.

    Raises:
        ConfigError: A process that encodes died.
        StorageError: The store refuses writes.
    """
    output = encoder.output
    count, skipped = 0, list[Unusable]()
    with tempfile.TemporaryFile() as file:
        with pa.ipc.new_file(file, SAMPLES_SCHEMA) as writer:
            for part in encode_parts(samples, encoder, processes):
                writer.write_batch(part.rows)
                skipped += part.skipped
                count += part.rows.num_rows
                on_samples(part.rows.num_rows + len(part.skipped))
        _write_skipped(output, skipped)
        counts = SampleCounts(count, dict(Counter(sample.reason for sample in skipped)))
        check(counts, skipped)
        sha256 = _digest(cast(BinaryIO, file))
        storage.upload(file, storage.join(output, SAMPLES_NAME))
    return WrittenSamples(counts, sha256)


def discard_parts(output: str) -> None:
    """Remove the parts of a preparation that is finished."""
    storage.remove(storage.join(output, PARTS_FOLDER))


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    file.seek(0)
    return digest


def _write_skipped(output: str, skipped: Sequence[Unusable]) -> None:
    lines = "".join(json.dumps(one.describe(), ensure_ascii=False) + "\n" for one in skipped)
    storage.replace(storage.join(output, _SKIPPED_NAME), lines.encode("utf-8", "replace"))
