"""Samples -> the tensors of one micro-batch: packed rows, labels, pictures. Reads nothing.

Shape suffixes: R rows, T tokens of the longest row, N images, S pixels of an image's side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from s4v_core.training.data.order import pack
from s4v_core.training.data.tokens import IGNORED


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as it was read.

    Attributes:
        pixels: uint8 RGB of shape (S, S, 3), or None without an image.
        reason: Why its image could not be read; such a sample teaches nothing.
    """

    number: int
    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    pixels: NDArray[np.uint8] | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What a worker computes at once.

    Attributes:
        ids_RT: Token ids; an image is as many equal ids as it has tokens.
        positions_RT: Count from 0 in every sample: where they jump, a new sample begins, and
            attention does not reach across. Padding behind is one more sample.
        labels_RT: Id to predict at each place, -100 where nothing is learnt.
        pixels_NSS3: uint8, in the order of their tokens; one of zeros where no sample has any.
        images: Pictures that are real.
        tokens: Places that are not padding.
        lengths: Tokens of each sample, as long as they are in `ids_RT`.
        skipped: Number and reason of samples whose image could not be read.
    """

    ids_RT: torch.Tensor
    positions_RT: torch.Tensor
    labels_RT: torch.Tensor
    pixels_NSS3: torch.Tensor
    images: int
    tokens: int
    lengths: tuple[int, ...]
    numbers: tuple[int, ...]
    skipped: tuple[tuple[int, str], ...]

    @property
    def learnt(self) -> int:
        """Places that carry loss."""
        return int((self.labels_RT != IGNORED).sum())

    @property
    def places(self) -> int:
        """All places, padding included."""
        return self.ids_RT.numel()


@dataclass(frozen=True, slots=True)
class Collator:
    """Collates for one model.

    Attributes:
        image_id: The id that stands for an image.
        image_tokens: Tokens that an image takes.
        pad_id: Fills rows.
        side_px: S.
    """

    image_id: int
    image_tokens: int
    pad_id: int
    side_px: int

    def collate(self, samples: Sequence[Sample]) -> MicroBatch:
        """Pack samples into rows as long as the longest; without any, a row of padding."""
        expanded = [self._expanded(sample) for sample in samples]
        lengths = [len(ids) for ids, _ in expanded]
        longest = max(lengths, default=2)
        rows = pack(lengths, longest) or [[]]
        ids = np.full((len(rows), longest), self.pad_id, np.int64)
        labels = np.full_like(ids, IGNORED)
        positions = np.zeros_like(ids)
        pictures = []
        for row, places in enumerate(rows):
            start = 0
            for place in places:
                span = slice(start, start + lengths[place])
                ids[row, span], labels[row, span] = expanded[place]
                positions[row, span] = np.arange(lengths[place])
                start += lengths[place]
                if (picture := samples[place].pixels) is not None:
                    pictures.append(picture)
            positions[row, start:] = np.arange(longest - start)
        empty = np.zeros((1, self.side_px, self.side_px, 3), np.uint8)
        return MicroBatch(
            ids_RT=torch.from_numpy(ids),
            positions_RT=torch.from_numpy(positions),
            labels_RT=torch.from_numpy(labels),
            pixels_NSS3=torch.from_numpy(np.stack(pictures) if pictures else empty),
            images=len(pictures),
            tokens=sum(lengths),
            lengths=tuple(lengths),
            numbers=tuple(sample.number for sample in samples),
            skipped=tuple((s.number, s.reason) for s in samples if s.reason),
        )

    def _expanded(self, sample: Sample) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids with the image as all its tokens, and the labels that belong to them."""
        repeats = np.where(sample.ids == self.image_id, self.image_tokens, 1)
        ids = np.repeat(sample.ids, repeats).astype(np.int64)
        learnt = np.repeat(sample.learnt, repeats)
        if sample.reason:
            learnt = np.zeros_like(learnt)
        # A place predicts the id behind it, so labels stand one place earlier; the first token of
        # a sample is nobody's label, and its last place predicts nothing.
        labels = np.full_like(ids, IGNORED)
        labels[:-1] = np.where(learnt[1:], ids[1:], IGNORED)
        return ids, labels
