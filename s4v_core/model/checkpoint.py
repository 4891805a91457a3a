"""Checkpoints on disk: the one function that writes them.

Written with the names that transformers and vLLM both load; a model built from a config and saved
by transformers itself lacks the `vision_model` level, and vLLM refuses it.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from s4v_core.model.names import disk_name_of_memory


def export_checkpoint(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path
) -> None:
    """Write `model` and `processor` as a folder that transformers and vLLM load."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file(disk_names(model.state_dict()), folder / "model.safetensors", {"format": "pt"})


def disk_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with the names that lie on disk; tensors are made contiguous."""
    return {disk_name_of_memory(name): tensor.contiguous() for name, tensor in state.items()}
