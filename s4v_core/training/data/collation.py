"""Makes the tensors of a micro-batch from samples: packed rows, labels, pixels. Reads no files.

Shape suffixes: R rows, T tokens of the longest row, N images, S pixels of an image's side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from s4v_core.training.data.order import pack_rows
from s4v_core.training.data.tokens import IGNORED

LEFT_OUT = "left_out"
"""Reason of a sample that the user leaves out. It has no tokens in its micro-batch."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, with its image decoded.

    Attributes:
        number: Row of the sample in the table of samples.
        ids: Token ids; the image is one id.
        learnt: Whether each id carries loss.
        pixels: uint8 RGB of shape (S, S, 3), or None for text alone.
        reason: Why the image could not be read, LEFT_OUT, or None. A sample with a reason carries
            no loss.
    """

    number: int
    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    pixels: NDArray[np.uint8] | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The samples that a worker computes at once.

    Attributes:
        ids_RT: Token ids; an image is repeated as often as it has tokens.
        positions_RT: Positions, which start at 0 in every sample. Where they jump, a new sample
            begins, and attention does not reach across. The padding at the end of a row counts as
            one more sample.
        labels_RT: The id to predict at each position, -100 where nothing is learnt.
        pixels_NSS3: Images as uint8, in the order of their tokens; a single image of zeros if no
            sample has one.
        images: Number of real images.
        tokens: Number of positions that are not padding.
        lengths: Number of tokens of each sample, image expanded.
        numbers: Number of each sample.
        skipped: Number and reason of each sample whose image could not be read, or that the user
            leaves out.
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
        """Number of positions that carry loss."""
        return int((self.labels_RT != IGNORED).sum())

    @property
    def places(self) -> int:
        """Number of all positions, padding included."""
        return self.ids_RT.numel()


@dataclass(frozen=True, slots=True)
class Collator:
    """Collates samples for one model.

    Attributes:
        image_id: The token id that marks an image.
        image_tokens: Number of tokens that an image takes.
        pad_id: The token id that fills rows.
        side_px: Side of an image in pixels (S).
    """

    image_id: int
    image_tokens: int
    pad_id: int
    side_px: int

    def collate(self, samples: Sequence[Sample]) -> MicroBatch:
        """Pack samples into rows as long as the longest sample, or make one row of padding if there
        are none."""
        expanded = [self._expand(sample) for sample in samples]
        lengths = [len(ids) for ids, _ in expanded]
        longest = max(lengths, default=0) or 2
        rows = pack_rows(lengths, longest) or [[]]
        ids = np.full((len(rows), longest), self.pad_id, np.int64)
        labels = np.full_like(ids, IGNORED)
        positions = np.zeros_like(ids)
        images = []
        for row, members in enumerate(rows):
            start = 0
            for index in members:
                span = slice(start, start + lengths[index])
                ids[row, span], labels[row, span] = expanded[index]
                positions[row, span] = np.arange(lengths[index])
                start += lengths[index]
                if (pixels := samples[index].pixels) is not None:
                    images.append(pixels)
            positions[row, start:] = np.arange(longest - start)
        empty = np.zeros((1, self.side_px, self.side_px, 3), np.uint8)
        return MicroBatch(
            ids_RT=torch.from_numpy(ids),
            positions_RT=torch.from_numpy(positions),
            labels_RT=torch.from_numpy(labels),
            pixels_NSS3=torch.from_numpy(np.stack(images) if images else empty),
            images=len(images),
            tokens=sum(lengths),
            lengths=tuple(lengths),
            numbers=tuple(sample.number for sample in samples),
            skipped=tuple((s.number, s.reason) for s in samples if s.reason),
        )

    def _expand(self, sample: Sample) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids with the image as all its tokens, and their labels."""
        repeats = np.where(sample.ids == self.image_id, self.image_tokens, 1)
        ids = np.repeat(sample.ids, repeats).astype(np.int64)
        learnt = np.repeat(sample.learnt, repeats)
        if sample.reason:
            learnt = np.zeros_like(learnt)
        # A position predicts the next id, so labels are shifted forward by one: the first id of a
        # sample is never a label, and its last position predicts nothing.
        labels = np.full_like(ids, IGNORED)
        labels[:-1] = np.where(learnt[1:], ids[1:], IGNORED)
        return ids, labels
