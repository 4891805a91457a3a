"""A checkpoint folder -> the model of one worker, its weights sharded over all (FSDP2).

Applied from outside: the model room knows nothing of it. Weights are kept in fp32; what is
computed in is another matter, or small updates would vanish in bf16.
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
from s4v_core.training.worker.step import Step


def build_sharded(
    folder: Path,
    learning: Learning,
    mesh: DeviceMesh,
    compute_dtype: torch.dtype,
    activation_checkpointing: bool,
) -> Step:
    """The model of `folder`, ready to train on the devices of `mesh`.

    No worker ever holds the whole: it is built without memory, sharded, and each worker reads its
    own slices from the files.

    Raises:
        ConfigError: The folder holds the weights of another model.
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
    step = Step(model)
    _shard(step, mesh, compute_dtype)
    step.to_empty(device=mesh.device_type)
    _restore_buffers(model)
    _read_weights(model, folder)
    return step


def _shard(step: Step, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    inner = step.model.model
    parts = [
        *inner.vision_tower.encoder.layers,
        *inner.language_model.layers,
        inner.language_model.embed_tokens,
        step.model.lm_head,
        step,
    ]
    for part in parts:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for module in step.modules():
        if isinstance(module, FSDPModule):
            # Losses are sums over all workers, divided once by all labelled tokens.
            module.set_gradient_divide_factor(1.0)
            # Without this gloo refuses a factor of its own (PREMUL_SUM).
            module.set_force_sum_reduction_for_comms(True)


def _restore_buffers(model: LlavaForConditionalGeneration) -> None:
    """Compute again what `to_empty` left as garbage and no checkpoint holds."""
    tower, language = model.model.vision_tower, model.model.language_model
    positions = tower.embeddings.position_ids
    positions.copy_(torch.arange(positions.shape[-1]).expand_as(positions))
    # A computation on the CPU: what is made inside a device context may be of another device.
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
