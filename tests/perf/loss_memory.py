"""Peak memory of a loss over a large vocabulary; each measurement needs a new process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from s4v_core.training.data.tokens import IGNORED
from s4v_core.training.worker.loss_module import LossHead

Kind = Literal["chunked", "plain"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the hidden states, and of the vocabulary that they are projected to."""

    rows: int
    tokens: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Measurement:
    """Memory and result of a loss.

    Attributes:
        peak_mib: Increase of resident memory at the peak of forward and backward.
        loss: Mean over the labelled places.
        gradients: Gradients of the hidden states and of the head's weight.
    """

    peak_mib: float
    loss: float
    gradients: tuple[NDArray[np.float32], ...]


def measure(kind: Kind, labelled: float, sizes: Sizes) -> Measurement:
    """Run forward and backward over random states, a share `labelled` of which has labels."""
    _run(kind, *_draw_tensors(0.5, Sizes(1, 16, 32, 64)))  # loads libraries and starts threads
    hidden, labels, head = _draw_tensors(labelled, sizes)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    loss = _run(kind, hidden, labels, head)
    peak = (_read_peak_bytes() - before) / 2**20
    gradients = [tensor.grad for tensor in (hidden, head.weight)]
    return Measurement(peak, loss, tuple(g.numpy() for g in gradients if g is not None))


def largest_difference(one: Any, other: Any) -> float:
    """The largest difference of two arrays or numbers, relative to the other's largest value."""
    return float(np.abs(np.subtract(one, other)).max() / np.abs(other).max())


def _draw_tensors(labelled: float, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor, LossHead]:
    chance = torch.Generator().manual_seed(0)
    places = (sizes.rows, sizes.tokens)
    hidden = torch.randn(*places, sizes.width, generator=chance).requires_grad_()
    labels = torch.randint(sizes.vocabulary, places, generator=chance)
    labels[torch.rand(places, generator=chance) >= labelled] = IGNORED
    head = LossHead(sizes.width, sizes.vocabulary, bias=False)
    with torch.no_grad():
        head.weight.normal_(std=sizes.width**-0.5, generator=chance)
    return hidden, labels, head


def _run(kind: Kind, hidden: torch.Tensor, labels: torch.Tensor, head: LossHead) -> float:
    learnt_places = (labels.flatten() != IGNORED).nonzero().flatten()
    total = (
        head(hidden, labels, learnt_places)
        if kind == "chunked"
        else _compute_plain_loss(hidden, labels, head.weight)
    )
    mean = total / (labels != IGNORED).sum()
    mean.backward()
    return float(mean.detach())


def _compute_plain_loss(
    hidden: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    logits = F.linear(hidden, weight).flatten(0, 1)
    return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")


def _read_peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak_kib] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak_kib) << 10
