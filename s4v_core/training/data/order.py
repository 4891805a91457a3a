"""Which samples make up which step: a pure function of the seed. No torch, no ray, no state.

Workers only slice it, so that every number of workers sees the same steps, and a run resumes by
naming its step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

VERSION = 1
"""Of the order itself; part of what a run is identified by."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a run.

    Attributes:
        has_image: Per sample; only asked when steps are grouped.
        grouped: Whether a step holds only samples with images, or only samples without
            (share4v_trainer.py `group_by_modality`); what is left over shares the last steps.
    """

    has_image: NDArray[np.bool_]
    batch_size: int
    seed: int
    epochs: int = 1
    grouped: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.has_image) // self.batch_size)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def step(self, step: int) -> Numbers:
        """Samples of a step, ascending from 0; the last one of an epoch may be smaller."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[place]

    def epoch(self, epoch: int) -> list[Numbers]:
        """The steps of one epoch; together they hold every sample exactly once."""
        chance = np.random.default_rng([self.seed, epoch])
        whole = chance.permutation(len(self.has_image)).astype(np.int64)
        if not self.grouped:
            return _cut(whole, self.batch_size)
        seen = self.has_image[whole]
        full, rest = [], []
        for kind in (whole[seen], whole[~seen]):
            even = len(kind) // self.batch_size * self.batch_size
            full += _cut(kind[:even], self.batch_size)
            rest.append(kind[even:])
        mixed = [full[at] for at in chance.permutation(len(full))]
        return mixed + _cut(np.concatenate(rest), self.batch_size)


def share_out(
    samples: Numbers, lengths: Sequence[int] | Numbers, workers: int, device_batch_size: int
) -> list[list[Numbers]]:
    """A step's samples as `[worker][round]`, every worker with the same number of rounds.

    Longest first: samples of one round are alike, so that little is padded; and dealt out back
    and forth, so that workers finish together.

    Args:
        lengths: Tokens of each of `samples`.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    longest_first = samples[order]
    share = workers * device_batch_size
    rounds = max(-(-len(samples) // share), 1)
    dealt: list[list[Numbers]] = [[] for _ in range(workers)]
    for number in range(rounds):
        part = longest_first[number * share : (number + 1) * share]
        lanes = np.arange(len(part)) % (2 * workers)
        lanes = np.where(lanes < workers, lanes, 2 * workers - 1 - lanes)
        for worker in range(workers):
            dealt[worker].append(part[lanes == worker])
    return dealt


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Samples into rows of at most `capacity` tokens (first fit, longest first).

    Returns:
        Places in `lengths`, row by row. A sample longer than `capacity` has a row of its own.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda p: (-lengths[p], p)):
        need = lengths[place]
        row = next((r for r, space in enumerate(free) if space >= need), None)
        if row is None:
            rows.append([])
            free.append(max(capacity, need))
            row = len(rows) - 1
        rows[row].append(place)
        free[row] -= need
    return rows


def _cut(numbers: Numbers, size: int) -> list[Numbers]:
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]
