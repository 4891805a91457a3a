"""Who computes: this worker, its place among all, and the little that they tell each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@dataclass(frozen=True, slots=True)
class World:
    """One worker among `size`.

    Attributes:
        control: Group for small numbers, over CPUs on every machine.
        saving: The same for checkpoints: their threads talk while training goes on.
    """

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh
    control: dist.ProcessGroup
    saving: dist.ProcessGroup

    @property
    def leads(self) -> bool:
        """Whether this worker writes what is written once."""
        return self.rank == 0

    def summed(self, *values: float) -> list[float]:
        """Each value added up over all workers, in fp64."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return [float(value) for value in total]

    def wait(self) -> None:
        """Until all workers are here."""
        dist.barrier(group=self.control)


def join_world(device: str) -> World:
    """The world of the process group that is already there (Ray Train makes one)."""
    kind = torch.device(device)
    mesh = init_device_mesh(kind.type, (dist.get_world_size(),))
    groups = [dist.new_group(backend="gloo") for _ in range(2)]
    return World(dist.get_rank(), dist.get_world_size(), kind, mesh, *groups)


@contextmanager
def lone_world(device: str) -> Iterator[World]:
    """A world of this process alone; the same code runs in it, without any cluster."""
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield join_world(device)
    finally:
        dist.destroy_process_group()
