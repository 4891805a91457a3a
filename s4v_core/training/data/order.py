"""Decides which samples make up which step, from the seed alone. No torch, no ray, no state.

Workers only split a step among themselves, so any number of workers computes the same steps, and a
run resumes from the number of its step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

VERSION = 1
"""Version of the order. A run's settings include it, so that a run is resumed only in the order it
began with. Increase it whenever the same seed gives other steps."""

_HELD_OUT = 1 << 32
"""Number that stands in the place of an epoch's when the held-out samples are drawn."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a run's samples.

    Attributes:
        has_image: Whether each sample has an image; used only if steps are grouped.
        batch_size: Number of samples in a step.
        seed: Decides the order.
        epochs: Number of epochs.
        grouped: Whether each step has only samples with an image, or only samples without one
            (share4v_trainer.py `group_by_modality`). The samples that do not fill such a step are
            mixed in the last steps of the epoch.
        held_out: Share of the samples that no step holds, because their loss is measured. They are
            drawn from the seed, and are the same in every epoch.
    """

    has_image: NDArray[np.bool_]
    batch_size: int
    seed: int
    epochs: int = 1
    grouped: bool = False
    held_out: float = 0.0

    @property
    def samples_per_epoch(self) -> int:
        return len(self.has_image) - self._count_held_out()

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples_per_epoch // self.batch_size)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def draw_step(self, step: int) -> Numbers:
        """The samples of a step, counted from 0. The last step of an epoch may be smaller."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.draw_epoch(epoch)[place]

    def draw_epoch(self, epoch: int) -> list[Numbers]:
        """The samples of each step of an epoch; together they are all samples, each once."""
        chance = np.random.default_rng([self.seed, epoch])
        whole = chance.permutation(len(self.has_image)).astype(np.int64)
        if self.held_out:
            whole = whole[~np.isin(whole, self.draw_held_out())]
        if not self.grouped:
            return _cut(whole, self.batch_size)
        with_image = self.has_image[whole]
        full, rest = [], []
        for kind in (whole[with_image], whole[~with_image]):
            even = len(kind) // self.batch_size * self.batch_size
            full += _cut(kind[:even], self.batch_size)
            rest.append(kind[even:])
        mixed = [full[at] for at in chance.permutation(len(full))]
        return mixed + _cut(np.concatenate(rest), self.batch_size)

    def draw_held_out(self) -> Numbers:
        """The samples that no step holds, in ascending order."""
        chance = np.random.default_rng([self.seed, _HELD_OUT])
        whole = chance.permutation(len(self.has_image)).astype(np.int64)
        return np.sort(whole[: self._count_held_out()])

    def build_held_out(self) -> "HeldOut":
        """The held-out samples as steps of their own, of the same size."""
        return HeldOut(self.draw_held_out(), self.batch_size)

    def _count_held_out(self) -> int:
        return max(round(len(self.has_image) * self.held_out), 1) if self.held_out else 0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out samples in steps, always in the same order.

    Attributes:
        numbers: The samples.
        batch_size: Number of samples in a step.
    """

    numbers: Numbers
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.numbers) // self.batch_size)

    def draw_epoch(self, epoch: int) -> list[Numbers]:
        """The samples of each step; every epoch is the same."""
        return _cut(self.numbers, self.batch_size)


def split_over_workers(
    samples: Numbers, lengths: Sequence[int] | Numbers, workers: int, device_batch_size: int
) -> list[list[Numbers]]:
    """Split a step's samples as `[worker][round]`; every worker has the same number of rounds.

    The longest samples come first, so that those of one round have similar lengths and need little
    padding. Within a round they go to the workers back and forth, so that workers finish together.

    Args:
        lengths: Number of tokens of each of `samples`.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    longest_first = samples[order]
    share = workers * device_batch_size
    rounds = max(-(-len(samples) // share), 1)
    shares: list[list[Numbers]] = [[] for _ in range(workers)]
    for number in range(rounds):
        part = longest_first[number * share : (number + 1) * share]
        lanes = np.arange(len(part)) % (2 * workers)
        lanes = np.where(lanes < workers, lanes, 2 * workers - 1 - lanes)
        for worker in range(workers):
            shares[worker].append(part[lanes == worker])
    return shares


def pack_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack samples into rows of at most `capacity` tokens (first fit, longest first).

    Returns:
        Indices into `lengths`, row by row. A sample longer than `capacity` has a row of its own.
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
