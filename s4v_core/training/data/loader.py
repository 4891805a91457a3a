"""Reads one worker's micro-batches of each step, ahead of time and in processes of their own.

It keeps no state: a step is read by its number, so a run resumes by starting at a later number. An
image that cannot be read costs its sample; a store that does not answer costs the step, whose error
is handed over as a value.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.inputs.image_bytes import read_images
from s4v_core.training.data.collation import LEFT_OUT, Collator, MicroBatch, Sample
from s4v_core.training.data.order import HeldOut, Numbers, Order, split_over_workers

_READS = 16
"""Number of images that are read at a time, because each takes a round trip."""

_PREFETCHED_STEPS = 2
_BLANK_PX = 56


ReadStep = list[MicroBatch] | StorageError
"""One worker's share of a step, or why it cannot be read."""


@dataclass
class StepReader(torch.utils.data.Dataset[ReadStep]):
    """`reader[step]` is one worker's share of that step, one micro-batch per round.

    Attributes:
        samples: Local path of the table of samples, which is mapped into memory.
        order: Decides which samples make up which step.
        collator: Makes the micro-batches.
        framing: How images are made square.
        worker: Number of the worker, from 0.
        workers: Number of workers.
        device_batch_size: Largest number of samples in a micro-batch.
        left_out: Numbers of the samples that are not trained on.
        patience_s: Seconds to wait for a store that does not answer.
    """

    samples: str
    order: Order | HeldOut
    collator: Collator
    framing: Framing
    worker: int
    workers: int
    device_batch_size: int
    left_out: frozenset[int] = frozenset()
    patience_s: float = storage.UNIT_PATIENCE_S

    def __getitem__(self, step: int) -> ReadStep:
        numbers = self._find_samples(step)
        lengths = self._table["tokens"].take(numbers).to_numpy()
        shares = split_over_workers(numbers, lengths, self.workers, self.device_batch_size)
        try:
            return [self.collator.collate(self._read(part)) for part in shares[self.worker]]
        except StorageError as error:
            return error

    def _find_samples(self, step: int) -> Numbers:
        """The samples of a step; the steps of its epoch are kept for the next call."""
        epoch, place = divmod(step, self.order.steps_per_epoch)
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = self.order.draw_epoch(epoch)
        return self._epochs[epoch][place]

    def _read(self, numbers: Numbers) -> list[Sample]:
        numbers = np.asarray(numbers)
        is_left_out = np.isin(numbers, self._left_out_numbers)
        kept, left_out = numbers[~is_left_out], numbers[is_left_out]
        rows = self._table.take(kept).to_pylist()
        images = [image for row in rows for image in row["images"]]
        read = iter(list(self._pool.map(self._read_image, images)))
        samples = [
            self._build_sample(int(number), row, [next(read) for _ in row["images"]])
            for number, row in zip(kept, rows, strict=True)
        ]
        nothing = np.zeros(0, np.int32), np.zeros(0, np.bool_), None
        return samples + [Sample(int(number), *nothing, LEFT_OUT) for number in left_out]

    def _read_image(self, place: dict[str, Any]) -> bytes | str:
        """An encoded image, or the reason why it cannot be read.

        Raises:
            StorageError: The store does not answer, or takes no request.
        """
        try:
            # Here and not around the pool: its threads do not have the caller's context.
            with storage.patience(self.patience_s):
                # The images of a step are far apart in their files, so each is read on its own.
                return read_images([place | {"problem": None}])[0]
        except (storage.UnreachableError, storage.NoCredentialsError):
            raise
        except StorageError:  # such as EIO: if all images have it, the run stops for their number
            return "unreadable"

    def _build_sample(self, number: int, row: dict[str, Any], images: list[bytes | str]) -> Sample:
        decoded = [self._decode(image) for image in images]
        reasons = [image for image in decoded if isinstance(image, str)]
        pixels = [self._blank if isinstance(image, str) else image for image in decoded]
        return Sample(
            number=number,
            ids=np.array(row["ids"], np.int32),
            learnt=np.array(row["learnt"], np.bool_),
            pixels=tuple(pixels) or None,
            reason=reasons[0] if reasons else None,
        )

    def _decode(self, data: bytes | str) -> NDArray[np.uint8] | str:
        """The pixels of an encoded image, or the reason why there are none; the reason of a failed
        read is passed through."""
        if isinstance(data, str):
            return data
        decoded = self._decoder.decode(data)
        if isinstance(decoded, Refused):
            return decoded.reason
        pixels = np.frombuffer(decoded.pixels, np.uint8)
        return pixels.reshape(decoded.pixel_height, decoded.pixel_width, 3)

    @property
    def _blank(self) -> NDArray[np.uint8]:
        # Where images have sizes of their own, a small one will do: its sample carries no loss.
        side = self.framing.size_px if self.framing.mode != "area" else _BLANK_PX
        return np.zeros((side, side, 3), np.uint8)

    # Made in the process that reads; none of these is pickled with the reader.
    @cached_property
    def _left_out_numbers(self) -> NDArray[np.int64]:
        return np.array(sorted(self.left_out), np.int64)

    @cached_property
    def _table(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(self.samples)).read_all()

    @cached_property
    def _epochs(self) -> dict[int, list[Numbers]]:
        return {}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_READS)

    @cached_property
    def _decoder(self) -> GuardedDecoder:
        # The pixels are those of the original preprocessing, except for EXIF: the captions were
        # made from images that were turned as EXIF says, so training turns them as well.
        return GuardedDecoder(DecodeConfig(reduced_jpeg=False), self.framing)


def read_steps(
    reader: StepReader,
    steps: range,
    processes: int,
    prepare_process: Callable[[int], None] | None = None,
) -> Generator[ReadStep, None, None]:
    """Read the steps in order, ahead of time in `processes` processes; 0 reads in this one.

    Args:
        prepare_process: Called at the start of each of the processes, with its number.
    """
    loader: Any = torch.utils.data.DataLoader(
        reader,
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        prefetch_factor=_PREFETCHED_STEPS if processes else None,
        pin_memory=torch.cuda.is_available(),
        # A forked child of a process with running threads can hang at once.
        multiprocessing_context="spawn" if processes else None,
        worker_init_fn=prepare_process,
    )
    yield from loader
