"""Counts the weights that one GPU holds, and those that it gathers from others, as FSDP does it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.fsdp_units import split_units

_AHEAD = 1
"""Parts whose weights FSDP gathers ahead by itself."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of parameters as one GPU has them.

    Attributes:
        learning: Its share of those that learn.
        frozen: Its share of those that do not.
        gathered: Those that it holds as a whole at once, to compute with them in the backward pass.
        reduced: Those that learn of the part that has most: their gradients are whole before they
            are shared out.
    """

    learning: int
    frozen: int
    gathered: int
    reduced: int


def count_weights(model: Any, job: TrainStage) -> Weights:
    """Count a model whose learning parameters are chosen, for the worker with the largest share.

    Copies of the model (HSDP) share the workers among themselves, so each worker has more of it.
    """
    shards = max(job.workers, 1) // job.replicas
    parameters = list(model.parameters())
    units = split_units(model)
    # The vision blocks that are one part together have no backward pass, and are freed before it.
    parts = [[one] for one in (*units.alone, units.head)]
    sizes = [_count(part) for part in parts]
    root = sum(p.numel() for p in parameters) - sum(sizes) - _count(units.together)
    if job.reshard_after_forward:
        gathered = sum(sorted(sizes)[-1 - max(job.prefetch, _AHEAD) :])
    else:
        gathered = sum(sizes)
    return Weights(
        learning=sum(_count_share(p, shards) for p in parameters if p.requires_grad),
        frozen=sum(_count_share(p, shards) for p in parameters if not p.requires_grad),
        gathered=gathered + root,
        reduced=max(_count(part, learning_only=True) for part in parts),
    )


def _count(modules: Iterable[nn.Module], learning_only: bool = False) -> int:
    return sum(
        p.numel()
        for module in modules
        for p in module.parameters()
        if p.requires_grad or not learning_only
    )


def _count_share(parameter: nn.Parameter, shards: int) -> int:
    """Numbers of the first worker's share: FSDP deals out whole rows, and the first gets most."""
    rows = parameter.shape[0] if parameter.dim() else 1
    return -(-rows // shards) * (parameter.numel() // rows)
