"""Collation for models that take each image in its own size, as patches: the Qwen-VL family."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s4v_core.training.data.collation import Collator, MicroBatch, Sample
from s4v_core.training.data.order import pack_rows

_TOO_LONG = "too_long"


@dataclass(frozen=True, slots=True)
class PatchCollator(Collator):
    """Collates samples for one model whose images have sizes of their own.

    Attributes:
        processor: The checkpoint's image processor, which cuts images into patches.
        merge: Side of the square of patches that becomes one token.
        max_tokens: Length of the longest sample, images expanded. Text beyond it is cut.
    """

    processor: Any
    merge: int
    max_tokens: int

    def collate(self, samples: Sequence[Sample]) -> MicroBatch:
        """Pack samples into rows as long as the longest sample, or make one row of padding if there
        are none. Images are cut into patches by the checkpoint's own processor."""
        processed = [self._process(sample) for sample in samples]
        batch = super(PatchCollator, self).collate([sample for sample, _, _ in processed])
        rows = pack_rows(batch.lengths, batch.ids_RT.shape[1]) or [[]]
        in_order = [processed[index] for members in rows for index in members]
        patches = [part for _, part, _ in in_order if len(part)]
        grids = [part for _, _, part in in_order if len(part)]
        return replace(
            batch,
            patches_PD=torch.from_numpy(np.concatenate(patches) if patches else self._blank()),
            grids_N3=torch.from_numpy(np.concatenate(grids) if grids else self._blank_grid()),
            rope_3RT=self._rotate(batch, processed, rows),
            images=sum(map(len, grids)),
        )

    def _process(self, sample: Sample) -> tuple[Sample, NDArray[np.float32], NDArray[np.int64]]:
        """The sample without pixels, its patches, and the grid of each of its images."""
        if not (pictures := sample.pictures):
            return self._cut(sample), np.zeros((0, 0), np.float32), np.zeros((0, 3), np.int64)
        found = self.processor(images=pictures, return_tensors="np")
        grids = np.asarray(found["image_grid_thw"], np.int64)
        counts = tuple(int(count) for count in grids.prod(1) // self.merge**2)
        expanded = self._cut(replace(sample, pixels=None, image_tokens=counts))
        return expanded, np.asarray(found["pixel_values"], np.float32), grids

    def _cut(self, sample: Sample) -> Sample:
        """The sample with its text cut at the longest allowed length. Where an image would be cut,
        the whole sample stays, and carries no loss."""
        ids = sample.ids
        repeats = np.ones(len(ids), np.int64)
        if sample.image_tokens:
            repeats[ids == self.image_id] = sample.image_tokens
        room = int(np.searchsorted(np.cumsum(repeats), self.max_tokens, side="right"))
        if (ids[room:] == self.image_id).any():
            return replace(sample, reason=sample.reason or _TOO_LONG)
        learnt = sample.learnt[:room]
        reason = sample.reason or (None if learnt.any() else _TOO_LONG)
        return replace(sample, ids=ids[:room], learnt=learnt, reason=reason)

    def _rotate(
        self,
        batch: MicroBatch,
        processed: Sequence[tuple[Sample, NDArray[np.float32], NDArray[np.int64]]],
        rows: Sequence[Sequence[int]],
    ) -> torch.Tensor:
        """Positions in time, height and width, which begin again in every sample."""
        positions = batch.positions_RT.numpy()
        found = np.broadcast_to(positions, (3, *positions.shape)).copy()
        for row, members in enumerate(rows):
            start = 0
            for index in members:
                sample, _, grids = processed[index]
                length = batch.lengths[index]
                found[:, row, start : start + length] = find_rope_positions(
                    sample.ids == self.image_id, grids, self.merge
                )
                start += length
        return torch.from_numpy(found)

    def _blank(self) -> NDArray[np.float32]:
        """The patches of the smallest image, which is black: each worker computes an image in each
        micro-batch."""
        grid = self._blank_grid()
        numbers = 3 * self.processor.temporal_patch_size * self.processor.patch_size**2
        return np.zeros((int(grid.prod()), numbers), np.float32)

    def _blank_grid(self) -> NDArray[np.int64]:
        return np.array([[1, self.merge, self.merge]], np.int64)


def find_rope_positions(
    is_image: NDArray[np.bool_], grids: NDArray[np.int64], merge: int
) -> NDArray[np.int64]:
    """Positions in time, height and width of one sample, shape (3, tokens).

    A text token moves all three by one. An image's tokens share the time and count rows and columns
    from there; behind the image the text goes on after its largest position (Qwen2-VL, arXiv
    2409.12191, Sec. 2.1; `get_rope_index` of transformers).

    Args:
        is_image: For each id of the sample, where an image is one id, whether it is an image.
        grids: Patches of each image in time, height and width.
        merge: Side of the square of patches that becomes one token.
    """
    parts: list[NDArray[np.int64]] = []
    at, image = 0, 0
    for one in is_image:
        if not one:
            parts.append(np.full((3, 1), at))
            at += 1
            continue
        time, height, width = (int(n) for n in grids[image] // (1, merge, merge))
        image += 1
        inside = np.indices((time, height, width)).reshape(3, -1)
        parts.append(inside + at)
        at += max(height, width)
    return np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
