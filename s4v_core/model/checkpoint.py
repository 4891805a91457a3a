"""Checkpoints on disk: the one function that writes them.

Written with the names that transformers and vLLM both load; a model built from a config and saved
by transformers itself lacks the `vision_model` level, and vLLM refuses it.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

_NAMES = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
"""Prefix in memory (transformers 5) -> prefix on disk."""


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
    return {_disk_name(name): tensor.contiguous() for name, tensor in state.items()}


def _disk_name(name: str) -> str:
    for memory, disk in _NAMES:
        if name.startswith(memory):
            return disk + name.removeprefix(memory)
    raise KeyError(f"{name}: no parameter of LLaVA-1.5")
