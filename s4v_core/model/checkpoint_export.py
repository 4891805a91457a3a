"""Writes a model as a checkpoint folder with tensor names that transformers and vLLM both load.

If a model was built from a config, transformers' own `save_pretrained` leaves out the
`vision_model` level of the names, and vLLM refuses such a checkpoint.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from s4v_core.model.names import disk_name_of_memory


def export_checkpoint(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path
) -> None:
    """Write `model` and `processor` to a folder that transformers and vLLM load."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file(_rename_for_disk(model.state_dict()), folder / "model.safetensors", {"format": "pt"})


def _rename_for_disk(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with its names on disk and contiguous tensors."""
    return {disk_name_of_memory(name): tensor.contiguous() for name, tensor in state.items()}
