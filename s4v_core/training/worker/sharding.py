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
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import LlavaConfig, LlavaForConditionalGeneration

from s4v_core.errors import ConfigError
from s4v_core.model.learning import set_learning
from s4v_core.model.names import disk_name_of_memory
from s4v_core.training.stage import Learning
from s4v_core.training.worker.loss_module import LossModule


def build_sharded_module(
    folder: Path,
    learning: Learning,
    mesh: DeviceMesh,
    compute_dtype: torch.dtype,
    activation_checkpointing: bool,
) -> LossModule:
    """Build the model of `folder`, ready to train on the devices of `mesh`.

    No worker ever holds the whole model: it is built without memory, then sharded, and then each
    worker reads its own slices from the files.

    Raises:
        ConfigError: The weights in the folder do not fit its config.
    """
    config = LlavaConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.float().train()
    set_learning(
        model,
        learning.vision_from,
        learning.vision_stem,
        learning.projector,
        learning.language,
    )
    if activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    module = LossModule(model)
    _shard(module, mesh, compute_dtype)
    module.to_empty(device=mesh.device_type)
    _restore_buffers(model)
    _read_weights(model, folder)
    return module


def _shard(root: LossModule, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    inner = root.model.model
    parts = [
        *inner.vision_tower.encoder.layers,
        *inner.language_model.layers,
        inner.language_model.embed_tokens,
        root.model.lm_head,
        root,
    ]
    for part in parts:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # The loss is a sum, which the loop divides once by the labelled tokens of all workers.
            module.set_gradient_divide_factor(1.0)
            # Otherwise gloo refuses the factor, which would become a PREMUL_SUM.
            module.set_force_sum_reduction_for_comms(True)


def _restore_buffers(model: LlavaForConditionalGeneration) -> None:
    """Compute the buffers again: `to_empty` leaves garbage in them, and no checkpoint has them."""
    tower, language = model.model.vision_tower, model.model.language_model
    positions = tower.embeddings.position_ids
    positions.copy_(torch.arange(positions.shape[-1]).expand_as(positions))
    # Computed on the CPU, for another device may give slightly different values.
    fresh = type(language.rotary_emb)(config=language.config)
    restored = {id(positions)}
    for name, buffer in language.rotary_emb.named_buffers():
        buffer.copy_(fresh.get_buffer(name))
        restored.add(id(buffer))
    left = [name for name, buffer in model.named_buffers() if id(buffer) not in restored]
    assert not left, f"buffers without a value: {left}"


def _read_weights(model: LlavaForConditionalGeneration, folder: Path) -> None:
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = safe_open(path, "pt")
        files |= dict.fromkeys(file.keys(), file)
    for name, parameter in model.named_parameters():
        disk = disk_name_of_memory(name)
        if disk not in files:
            raise ConfigError(f"model: {folder} holds no tensor {disk}")
        _read_slice(files[disk].get_slice(disk), parameter, f"{folder}: {disk}")


@torch.no_grad()
def _read_slice(stored: Any, parameter: nn.Parameter, place: str) -> None:
    if tuple(stored.get_shape()) != tuple(parameter.shape):
        raise ConfigError(
            f"model: {place}: found shape {tuple(stored.get_shape())}, "
            f"needed {tuple(parameter.shape)}"
        )
    assert isinstance(parameter, DTensor), "every parameter is sharded"
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    if shape[0]:
        parameter.to_local().copy_(stored[offset[0] : offset[0] + shape[0]])
