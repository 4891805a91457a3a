"""LoRA (arXiv 2106.09685): the weights of a linear layer stay, and a product of two thin matrices
that learns is added to them. Names are those of PEFT, so that its users can load what is exported.
"""

import hashlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from s4v_core.model.parts import find_parts
from s4v_core.training.lora import LANGUAGE_TARGETS, PROJECTOR_TARGETS, Lora
from s4v_core.training.stage import Learning

_DOWN, _UP = "lora_A", "lora_B"
"""PEFT's names of the two matrices, in the order in which they are applied."""


class LoraLinear(nn.Linear):
    """A linear layer whose weight is frozen, with an adapter: W x + scale * B A x."""

    scale: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = self.lora_B(self.lora_A(x))
        return F.linear(x, self.weight, self.bias) + self.scale * added


def add_adapters(model: nn.Module, lora: Lora, learning: Learning) -> None:
    """Freeze the whole model, and add adapters that learn to the parts that were to learn.

    The model may lie on the meta device; its adapters then have no values yet.
    """
    model.requires_grad_(False)
    found = find_parts(model)
    parts: list[tuple[nn.Module, tuple[str, ...]]] = []
    if learning.language:
        parts.append((found.language, LANGUAGE_TARGETS))
    if learning.projector:
        parts.append((found.projector, PROJECTOR_TARGETS))
    for part, names in parts:
        wanted = set(names) & set(lora.targets)
        for name, layer in part.named_modules():
            if name.rpartition(".")[2] in wanted:
                assert isinstance(layer, nn.Linear), f"{name} is a linear layer"
                _add_adapter(layer, lora)


def _add_adapter(layer: Any, lora: Lora) -> None:
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    layer.__class__ = LoraLinear
    layer.scale = lora.scale
    layer.lora_A = nn.Linear(layer.in_features, lora.rank, bias=False, **place)
    layer.lora_B = nn.Linear(lora.rank, layer.out_features, bias=False, **place)


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return name.endswith((f".{_DOWN}.weight", f".{_UP}.weight"))


def draw_adapter(name: str, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """The first value of an adapter's matrix: PEFT's uniform numbers, or zeros for the second one.

    The same for any number of workers, because it follows from the name and the seed alone.
    """
    if name.endswith(f".{_UP}.weight"):
        return torch.zeros(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    chance = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=chance)
