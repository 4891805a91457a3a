"""The workers of a run: this worker's place among them, and the few numbers that they exchange."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

EXCHANGE_LIMIT_S = 1800
"""Seconds that a worker waits for another in an exchange. It is above the patience with stores, so
that a worker that waits for its images does not end the run; NCCL's own limit is ten minutes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """One worker's view of all workers.

    Attributes:
        rank: Number of this worker, from 0.
        size: Number of workers.
        device: The device that this worker computes on.
        mesh: All workers' devices, over which weights are sharded. With copies of the model it has
            two dimensions: the copies, and the workers that share one.
        control: Process group for small numbers; it runs over CPUs on every machine.
        saving: Process group for checkpoints, whose threads communicate while training continues.
    """

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh
    control: dist.ProcessGroup
    saving: dist.ProcessGroup

    @property
    def is_leader(self) -> bool:
        """Whether this worker writes the files that are written once per run."""
        return self.rank == 0

    def sum_over_workers(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add up each value over all workers, in fp64. All must pass the same names in the same
        order."""
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return {name: float(value) for name, value in zip(values, total, strict=True)}

    def gather_from_workers(self, value: T) -> list[T]:
        """Every worker's value, in the order of their ranks; all must call it. Values are pickled,
        so this is for rare events and not for every step."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def wait_for_all(self) -> None:
        """Wait until every worker has called this."""
        dist.barrier(group=self.control)


def join_world(device: str, replicas: int = 1) -> World:
    """Join the workers of the process group that exists already (Ray Train creates one).

    Args:
        replicas: Number of groups of workers that each hold the whole model. Workers of a group
            have neighbouring ranks, so that they are on one machine where that is possible.
    """
    kind = torch.device(device)
    size = dist.get_world_size()
    limit = timedelta(seconds=EXCHANGE_LIMIT_S)
    if replicas == 1:
        mesh = init_device_mesh(kind.type, (size,))
    else:
        mesh = init_device_mesh(
            kind.type, (replicas, size // replicas), mesh_dim_names=("replicas", "shards")
        )
    groups = [dist.new_group(backend="gloo", timeout=limit) for _ in range(2)]
    return World(dist.get_rank(), size, kind, mesh, *groups)


@contextmanager
def open_local_world(device: str) -> Iterator[World]:
    """A world of one worker in this process, so that the same code runs without a cluster."""
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    limit = timedelta(seconds=EXCHANGE_LIMIT_S)
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
    try:
        yield join_world(device)
    finally:
        dist.destroy_process_group()
