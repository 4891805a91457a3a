"""Makes the tensors of a micro-batch from samples: packed rows, labels, pixels. Reads no files.

Shape suffixes: R rows, T tokens of the longest row, N images, S pixels of an image's side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from s4v_core.training.data.order import pack_rows
from s4v_core.training.data.tokens import IGNORED

LEFT_OUT = "left_out"
"""Reason of a sample that the user leaves out. It has no tokens in its micro-batch."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, with its images decoded.

    Attributes:
        number: Row of the sample in the table of samples.
        ids: Token ids; an image is one id.
        learnt: Whether each id carries loss.
        pixels: uint8 RGB images in the order of their ids, each of shape (height, width, 3); None
            for text alone. A single image may stand for itself.
        reason: Why an image could not be read, LEFT_OUT, or None. A sample with a reason carries
            no loss.
        image_tokens: Number of tokens of each image; None if all have the collator's number.
    """

    number: int
    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    pixels: NDArray[np.uint8] | Sequence[NDArray[np.uint8]] | None
    reason: str | None = None
    image_tokens: tuple[int, ...] | None = None

    @property
    def pictures(self) -> list[NDArray[np.uint8]]:
        """The images, one by one."""
        if isinstance(self.pixels, np.ndarray):
            return list(self.pixels.reshape(-1, *self.pixels.shape[-3:]))
        return list(self.pixels or ())


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The samples that a worker computes at once.

    Everything that a GPU would have to be waited for is counted here: the places of images and of
    labels, and whether samples share a row.

    Attributes:
        ids_RT: Token ids; an image is repeated as often as it has tokens.
        positions_RT: Positions, which start at 0 in every sample. Where they jump, a new sample
            begins, and attention does not reach across. The padding at the end of a row counts as
            one more sample.
        labels_RT: The id to predict at each position, -100 where nothing is learnt.
        pixels_NSS3: Images as uint8, in the order of their tokens; a single image of zeros if no
            sample has one.
        image_places_P: Positions of the image tokens, counted over all rows one behind the other.
        learnt_places_L: Positions with a label, counted in the same way.
        segment_starts: Bounds of the samples and of the padding, counted in the same way: int32,
            the first is 0 and the last is the number of all positions.
        longest_segment: Largest distance between two of these bounds.
        is_packed: Whether samples share a row.
        images: Number of real images.
        tokens: Number of positions that are not padding.
        lengths: Number of tokens of each sample, image expanded.
        numbers: Number of each sample.
        skipped: Number and reason of each sample whose image could not be read, or that the user
            leaves out.
        patches_PD: For models that take images as patches of D numbers: those of all images, in
            the place of `pixels_NSS3`.
        grids_N3: For these, how many patches each image has in time, height and width.
        rope_3RT: For these, the positions in time, height and width that rotate the attention.
    """

    ids_RT: torch.Tensor
    positions_RT: torch.Tensor
    labels_RT: torch.Tensor
    pixels_NSS3: torch.Tensor
    image_places_P: torch.Tensor
    learnt_places_L: torch.Tensor
    segment_starts: torch.Tensor
    longest_segment: int
    is_packed: bool
    images: int
    tokens: int
    lengths: tuple[int, ...]
    numbers: tuple[int, ...]
    skipped: tuple[tuple[int, str], ...]
    patches_PD: torch.Tensor | None = None
    grids_N3: torch.Tensor | None = None
    rope_3RT: torch.Tensor | None = None

    @property
    def learnt(self) -> int:
        """Number of positions that carry loss."""
        return self.learnt_places_L.numel()

    @property
    def places(self) -> int:
        """Number of all positions, padding included."""
        return self.ids_RT.numel()

    def to(self, device: torch.device) -> "MicroBatch":
        """The same micro-batch on a device."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "MicroBatch":
        """The same micro-batch in memory that a GPU copies from by itself."""
        return self._map_tensors(torch.Tensor.pin_memory)

    def _map_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {n: change(v) for n, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


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
                images += samples[index].pictures
            positions[row, start:] = np.arange(longest - start)
        bounds = _find_bounds(positions)
        empty = np.zeros((1, self.side_px, self.side_px, 3), np.uint8)
        return MicroBatch(
            ids_RT=torch.from_numpy(ids),
            positions_RT=torch.from_numpy(positions),
            labels_RT=torch.from_numpy(labels),
            pixels_NSS3=torch.from_numpy(np.stack(images) if images else empty),
            image_places_P=torch.from_numpy(np.flatnonzero(ids == self.image_id)),
            learnt_places_L=torch.from_numpy(np.flatnonzero(labels != IGNORED)),
            segment_starts=torch.from_numpy(bounds),
            longest_segment=int(np.diff(bounds).max()),
            is_packed=any(len(members) > 1 for members in rows),
            images=len(images),
            tokens=sum(lengths),
            lengths=tuple(lengths),
            numbers=tuple(sample.number for sample in samples),
            skipped=tuple((s.number, s.reason) for s in samples if s.reason),
        )

    def _expand(self, sample: Sample) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids with each image as all its tokens, and their labels."""
        repeats = np.ones(len(sample.ids), np.int64)
        repeats[sample.ids == self.image_id] = sample.image_tokens or self.image_tokens
        ids = np.repeat(sample.ids, repeats).astype(np.int64)
        learnt = np.repeat(sample.learnt, repeats)
        if sample.reason:
            learnt = np.zeros_like(learnt)
        # A position predicts the next id, so labels are shifted forward by one: the first id of a
        # sample is never a label, and its last position predicts nothing.
        labels = np.full_like(ids, IGNORED)
        labels[:-1] = np.where(learnt[1:], ids[1:], IGNORED)
        return ids, labels


def _find_bounds(positions: NDArray[np.int64]) -> NDArray[np.int32]:
    """The places where a sample or padding begins, over all rows, and the number of places."""
    return np.append(np.flatnonzero(positions == 0), positions.size).astype(np.int32)
