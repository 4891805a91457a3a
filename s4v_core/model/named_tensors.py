"""Opens weights by their names on disk, the projector's among them.

Each tensor of a source gets its name on disk, or a reason why it is left out.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

from s4v_core.errors import InputError
from s4v_core.model.names import (
    PROJECTOR,
    disk_name_of_any,
    disk_name_of_original,
    explain_left_out,
)
from s4v_core.model.weight_files import StoredTensor, open_file, open_weights

Tensors = dict[str, StoredTensor]

PROJECTOR_FILE = "mm_projector.bin"

_QUANTIZED = (".qweight", ".qzeros", ".SCB", ".absmax")
"""Endings of tensors that only quantized checkpoints have."""


def open_originals(folder: Path, left_out: Counter[str]) -> Tensors:
    """Open weights in the original layout, or those of a CLIP.

    Tensors of unknown names keep these; the comparison with the architecture refuses them.

    Args:
        left_out: Gets the number of tensors that have no place in our layout, by reason.

    Raises:
        InputError: As `open_weights`, or the weights are quantized.
    """
    named: Tensors = {}
    for name, tensor in open_weights(folder).items():
        if reason := explain_left_out(name):
            left_out[reason] += 1
            continue
        try:
            disk = disk_name_of_original(name) or name
        except KeyError:
            disk = name
        if disk in named:
            raise InputError(str(folder), f"holds {disk} under two names, one of them {name}")
        named[disk] = tensor
    if any(name.endswith(_QUANTIZED) for name in named):
        raise InputError(
            str(folder), "holds quantized weights; convert the model in full precision"
        )
    return named


def open_ours(folder: Path) -> Tensors:
    """Open a checkpoint in our layout, or in that of any transformers since 4.36, by our names.

    Raises:
        InputError: As `open_weights`, or a tensor has no place in a LLaVA-1.5.
    """
    named: Tensors = {}
    for name, tensor in open_weights(folder).items():
        if explain_left_out(name):
            continue
        try:
            named[disk_name_of_any(name)] = tensor
        except KeyError:
            raise InputError(str(folder), f"{name}: LLaVA-1.5 has no such tensor") from None
    return named


def open_projector(path: Path) -> Tensors:
    """Open LLaVA's mm_projector.bin, or the folder that holds it.

    Raises:
        InputError: There is no such file, or it holds other tensors than the projector's.
    """
    file = path / PROJECTOR_FILE if path.is_dir() else path
    if not file.exists():
        raise InputError(str(file), "is no file here; name LLaVA's mm_projector.bin")
    named: Tensors = {}
    for name, tensor in open_file(file).items():
        plain = name.removeprefix("base_model.model.")
        refuse_linear_projector(file, [plain])
        try:
            disk = disk_name_of_any(plain)
        except KeyError:
            disk = ""
        if not disk.startswith(PROJECTOR):
            raise InputError(
                str(file), f"found {name}, allowed mm_projector.0 and mm_projector.2 (mlp2x_gelu)"
            )
        named[disk] = tensor
    return named


def refuse_linear_projector(place: Path, names: Iterable[str]) -> None:
    """Raise InputError if a projector is the single layer of the first LLaVA."""
    if any(name.endswith(("mm_projector.weight", "mm_projector.bias")) for name in names):
        raise InputError(
            str(place),
            "its projector is a single linear layer; allowed are the two layers of LLaVA-1.5 "
            "(mlp2x_gelu)",
        )


def draw_projector(width_in: int, width_out: int) -> Tensors:
    """Draw a projector as torch initialises linear layers; the same widths give the same one."""
    chance = torch.Generator().manual_seed(0)

    def draw(*shape: int, fan_in: int) -> StoredTensor:
        bound = fan_in**-0.5
        values = (torch.rand(shape, generator=chance) * 2 - 1) * bound
        return StoredTensor(shape, values.dtype, lambda: values)

    return {
        f"{PROJECTOR}linear_1.weight": draw(width_out, width_in, fan_in=width_in),
        f"{PROJECTOR}linear_1.bias": draw(width_out, fan_in=width_in),
        f"{PROJECTOR}linear_2.weight": draw(width_out, width_out, fan_in=width_out),
        f"{PROJECTOR}linear_2.bias": draw(width_out, fan_in=width_out),
    }
