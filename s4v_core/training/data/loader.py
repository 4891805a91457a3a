"""Steps of a run -> micro-batches of one worker, read and decoded ahead in processes of their own.

Keeps no state: a step is read by its number, so that a run resumes by starting at another.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.inputs.image_bytes import read_images
from s4v_core.training.data.collation import Collator, MicroBatch, Sample
from s4v_core.training.data.order import Numbers, Order, share_out

READS = 16
"""Images that are read at a time: each is a round trip."""

PREFETCHED_STEPS = 2


@dataclass
class StepReader(torch.utils.data.Dataset[list[MicroBatch]]):
    """`reader[step]` is what one worker computes in that step, one micro-batch per round.

    Attributes:
        samples: Local path of the table of samples (SAMPLES_SCHEMA); it is mapped, not read.
        worker, workers: Whose share of every step this is.
    """

    samples: str
    order: Order
    collator: Collator
    framing: Framing
    worker: int
    workers: int
    device_batch_size: int

    def __getitem__(self, step: int) -> list[MicroBatch]:
        numbers = self._numbers(step)
        lengths = self._table["tokens"].take(numbers).to_numpy()
        shares = share_out(numbers, lengths, self.workers, self.device_batch_size)
        return [self.collator.collate(self._read(part)) for part in shares[self.worker]]

    def _numbers(self, step: int) -> Numbers:
        epoch, place = divmod(step, self.order.steps_per_epoch)
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = self.order.epoch(epoch)
        return self._epochs[epoch][place]

    def _read(self, numbers: Numbers) -> list[Sample]:
        rows = self._table.take(numbers).to_pylist()
        images = [self._decoded(data) for data in self._pool.map(_encoded_image, rows)]
        return [
            Sample(
                number=int(number),
                ids=np.array(row["ids"], np.int32),
                learnt=np.array(row["learnt"], np.bool_),
                pixels=self._blank if isinstance(image, str) else image,
                reason=image if isinstance(image, str) else None,
            )
            for number, row, image in zip(numbers, rows, images, strict=True)
        ]

    def _decoded(self, data: bytes | str | None) -> NDArray[np.uint8] | str | None:
        if not isinstance(data, bytes):
            return data
        decoded = self._decoder.decode(data)
        if isinstance(decoded, Refused):
            return decoded.reason
        pixels = np.frombuffer(decoded.pixels, np.uint8)
        return pixels.reshape(decoded.pixel_height, decoded.pixel_width, 3)

    @property
    def _blank(self) -> NDArray[np.uint8]:
        return np.zeros((self.framing.size_px, self.framing.size_px, 3), np.uint8)

    # Made in the process that reads: none of these travels.
    @cached_property
    def _table(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(self.samples)).read_all()

    @cached_property
    def _epochs(self) -> dict[int, list[Numbers]]:
        return {}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READS)

    @cached_property
    def _decoder(self) -> GuardedDecoder:
        # Pixel by pixel the original preprocessing, but for EXIF: captions were made of images
        # turned as a person sees them, so training sees them turned as well.
        return GuardedDecoder(DecodeConfig(reduced_jpeg=False), self.framing)


def _encoded_image(row: dict[str, Any]) -> bytes | str | None:
    """A sample's image as it is stored, None without an image, or why there is none."""
    if row["uri"] is None:
        return None
    # Samples of a step lie far apart: each is a read of its own.
    return read_images([row | {"problem": None}])[0]


def read_steps(reader: StepReader, steps: range, processes: int) -> Iterator[list[MicroBatch]]:
    """The steps in order, read ahead by `processes` processes (0: in this one)."""
    loader: Any = torch.utils.data.DataLoader(
        reader,
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        prefetch_factor=PREFETCHED_STEPS if processes else None,
        # A fork of a process with running threads can hang at once.
        multiprocessing_context="spawn" if processes else None,
    )
    yield from loader
