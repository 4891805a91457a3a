"""Builds the model of one worker from a checkpoint folder, its weights sharded over all workers
(FSDP2).

Sharding is applied from outside; the package `model` does not know of it. Weights are kept in fp32
even where the computation is in bf16, because small updates would vanish in bf16.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from s4v_core.errors import ConfigError
from s4v_core.model.normalisation import read_normalisation
from s4v_core.model.parts import find_parts
from s4v_core.training.families.choice import find_family
from s4v_core.training.families.family import Family
from s4v_core.training.lora import Lora
from s4v_core.training.stage import Learning
from s4v_core.training.worker.adapters import draw_adapter, is_adapter
from s4v_core.training.worker.empty_model import build_empty_model, choose_learning
from s4v_core.training.worker.fsdp_units import Switches, shard
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.qwen_module import QwenLossModule


def build_sharded_module(
    folder: Path,
    learning: Learning,
    mesh: DeviceMesh,
    compute_dtype: torch.dtype,
    switches: Switches,
    lora: Lora | None = None,
    seed: int = 0,
) -> LossModule:
    """Build the model of `folder`, ready to train on the devices of `mesh`.

    No worker ever holds the whole model: it is built without memory, then sharded, and then each
    worker reads its own slices from the files.

    Args:
        lora: Settings of the adapters that learn in place of the weights, if there are any.
        seed: Seed from which the adapters are drawn.

    Raises:
        ConfigError: The weights in the folder do not fit its config.
    """
    family = find_family(folder)
    model = build_empty_model(family.class_name, family.read_config(folder))
    choose_learning(model, learning, lora)
    if switches.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    module = _build_loss_module(model, folder, switches.kernel)
    if switches.compile:
        _compile_blocks(module)
    shard(module, mesh, compute_dtype, switches)
    module.to_empty(device=mesh.device_type)
    _restore_buffers(model)
    _read_weights(model, folder, family, seed)
    return module


def _build_loss_module(model: Any, folder: Path, kernel: str) -> LossModule:
    if hasattr(model.model, "visual"):
        return QwenLossModule(model, kernel)
    return LossModule(model, read_normalisation(folder), kernel)


def _compile_blocks(root: LossModule) -> None:
    """Compile block by block: all blocks of a kind share their code, and sharding stays outside."""
    parts = find_parts(root.model)
    for block in (*parts.blocks, *parts.language.layers):
        block.compile()


def _read_weights(model: nn.Module, folder: Path, family: Family, seed: int) -> None:
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = safe_open(path, "pt")
        files |= dict.fromkeys(file.keys(), file)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            _copy_slice(draw_adapter(name, tuple(parameter.shape), seed), parameter)
            continue
        disk = family.name_on_disk(name)
        if disk not in files:
            disk = name  # as transformers 5 saves some models
        if disk not in files:
            raise ConfigError(f"model: {folder} holds no tensor {disk}")
        _read_slice(files[disk].get_slice(disk), parameter, f"{folder}: {disk}")


def _read_slice(stored: Any, parameter: nn.Parameter, place: str) -> None:
    if tuple(stored.get_shape()) != tuple(parameter.shape):
        raise ConfigError(
            f"model: {place}: found shape {tuple(stored.get_shape())}, "
            f"needed {tuple(parameter.shape)}"
        )
    _copy_slice(stored, parameter)


@torch.no_grad()
def _copy_slice(whole: Any, parameter: nn.Parameter) -> None:
    """Copy this worker's rows of a whole tensor, which may still lie in its file."""
    assert isinstance(parameter, DTensor), "every parameter is sharded"
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    if shape[0]:
        parameter.to_local().copy_(whole[offset[0] : offset[0] + shape[0]])


def _restore_buffers(model: nn.Module) -> None:
    """Compute the buffers again: `to_empty` leaves garbage in them, and no checkpoint has them."""
    restored: set[int] = set()
    for module in model.modules():
        if isinstance(module, CLIPVisionEmbeddings):
            positions: Any = module.position_ids
            positions.copy_(torch.arange(positions.shape[-1]).expand_as(positions))
            restored.add(id(positions))
        if type(module).__name__.endswith("RotaryEmbedding"):
            # Computed on the CPU, for another device may give slightly different values.
            fresh = type(module)(config=module.config)
            for name, buffer in module.named_buffers():
                buffer.copy_(fresh.get_buffer(name))
                restored.add(id(buffer))
    left = [name for name, buffer in model.named_buffers() if id(buffer) not in restored]
    assert not left, f"buffers without a value: {left}"
