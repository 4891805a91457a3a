"""Encodes samples in parts, in several processes, and keeps finished parts for a later start.

A part is named by a digest of its samples and of everything that decides on their tokens, so that
a start after an interruption, or after a refusal, takes exactly the parts that are still right.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import chain, islice

import pyarrow as pa

from s4v_core import storage
from s4v_core.datasets.conversations import Unusable
from s4v_core.datasets.joining import PlacedConversation
from s4v_core.errors import ConfigError
from s4v_core.training.data.samples import SAMPLES_SCHEMA, AnyTemplate, encode_samples
from s4v_core.training.data.tokens import Encoder

PARTS_FOLDER = "preparing"
"""Folder below the output with the parts that are encoded already."""

_PART_SAMPLES = 2048
_PARTS_IN_ONE_PROCESS = 16
"""Data of at most this many parts are encoded faster than further processes start."""

_MOST_PROCESSES = 16
_WATCH_S = 1.0
_SKIPPED_KEY = b"s4v.skipped"

_Samples = Sequence[PlacedConversation | Unusable]


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of a run in tokens, in order.

    Attributes:
        rows: The samples that can be used.
        skipped: The others, with their reasons.
    """

    rows: pa.RecordBatch
    skipped: list[Unusable]


@dataclass(frozen=True, slots=True)
class PartEncoder:
    """Encodes the parts of one run. Small and picklable.

    Attributes:
        output: Folder of the run.
        template: Chat template.
        encoder: Encoder of the run's model.
        identity: Text that names everything that decides on the tokens, the samples aside.
    """

    output: str
    template: AnyTemplate
    encoder: Encoder
    identity: str

    def encode(self, samples: _Samples, is_kept: bool) -> Part:
        """Encode a part, or take it from an earlier start.

        Args:
            is_kept: Whether the part is looked for and kept in the output.
        """
        if not is_kept:
            return Part(*encode_samples(samples, self.template, self.encoder))
        uri = self._name(samples)
        if storage.stat(uri) is not None:
            return _load(storage.read(uri))
        part = Part(*encode_samples(samples, self.template, self.encoder))
        storage.replace(uri, _dump(part))
        return part

    def _name(self, samples: _Samples) -> str:
        digest = hashlib.sha256(self.identity.encode())
        for sample in samples:
            digest.update(repr(sample).encode("utf-8", "surrogatepass"))
        return storage.join(self.output, PARTS_FOLDER, f"{digest.hexdigest()[:32]}.arrow")


def encode_parts(
    samples: Iterator[PlacedConversation | Unusable], encoder: PartEncoder, processes: int | None
) -> Iterator[Part]:
    """Yield all samples in parts, in order, whatever the number of processes.

    Args:
        processes: Number of processes that encode; 0 encodes in this one, and None decides by the
            size of the data and the cores of this machine.

    Raises:
        ConfigError: One of the processes died.
        StorageError: The store refuses writes.
    """
    parts = iter(lambda: list(islice(samples, _PART_SAMPLES)), [])
    head = list(islice(parts, _PARTS_IN_ONE_PROCESS + 1))
    if processes is None:
        is_small = len(head) <= _PARTS_IN_ONE_PROCESS
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        processes = 0 if is_small or cores < 2 else min(cores, _MOST_PROCESSES)
    is_kept = len(head) > 1  # a single part is done again as fast as it is read
    whole = chain(head, parts)
    if not processes:
        yield from (encoder.encode(part, is_kept) for part in whole)
        return
    yield from _encode_in_processes(whole, encoder, processes)


def _encode_in_processes(
    parts: Iterator[_Samples], encoder: PartEncoder, processes: int
) -> Iterator[Part]:
    # A forked child of a process with running threads can hang at once.
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(encoder, os.getpid()),
    )
    waiting: deque[Future[bytes]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(_encode_here, part))
            if len(waiting) > 2 * processes:
                yield _load(waiting.popleft().result())
        while waiting:
            yield _load(waiting.popleft().result())
        pool.shutdown()  # whose memory the start of the training may need
    except BrokenProcessPool:
        raise ConfigError(
            f"prepare_workers: one of {processes} processes died, probably of too little memory; "
            "pass a smaller --prepare-workers, or 0 to prepare in one process"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_ENCODER: PartEncoder | None = None
"""Encoder of a process of the pool."""


def _start_process(encoder: PartEncoder, parent: int) -> None:
    global _ENCODER
    _ENCODER = encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and with it the pool
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process when its parent is gone, of which a killed parent tells nobody."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def _encode_here(samples: _Samples) -> bytes:
    assert _ENCODER is not None, "the pool starts its processes with an encoder"
    return _dump(_ENCODER.encode(samples, is_kept=True))


def _dump(part: Part) -> bytes:
    skipped = json.dumps([asdict(one) for one in part.skipped]).encode()
    schema = SAMPLES_SCHEMA.with_metadata({_SKIPPED_KEY: skipped})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(part.rows)
    return sink.getvalue().to_pybytes()


def _load(data: bytes) -> Part:
    file = pa.ipc.open_file(data)
    skipped = json.loads((file.schema.metadata or {})[_SKIPPED_KEY])
    rows = file.get_batch(0).replace_schema_metadata(None)
    return Part(rows, [Unusable(**one) for one in skipped])
