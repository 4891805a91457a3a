"""The files of a trained adapter, in PEFT's layout, and the sum of adapter and start model."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from s4v_core import storage
from s4v_core.model.names import disk_name_of_memory
from s4v_core.model.weight_files import read_tensors
from s4v_core.training.lora import LANGUAGE_TARGETS, Lora

ADAPTER = "adapter"
"""Folder of the exported adapter below the output of a run."""
ADAPTER_CONFIG = "adapter_config.json"
"""File that an adapter folder is known by; it is written last."""

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""PEFT's prefix of every name: its wrapper, and the model in it."""
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def write_adapter(
    output: str, tensors: Mapping[str, torch.Tensor], lora: Lora, model: str, card: str
) -> str:
    """Write an adapter below the output of a run; returns its folder.

    vLLM, PEFT and transformers load it with the start model.

    Args:
        tensors: The matrices of the adapter by their names in the loaded model.
        model: The start model.
        card: Text of README.md.
    """
    folder = storage.join(output, ADAPTER)
    named = {_PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
    storage.replace(storage.join(folder, _WEIGHTS), save(named, {"format": "pt"}))
    storage.replace(storage.join(folder, "README.md"), card.encode())
    storage.replace_json(
        storage.join(folder, ADAPTER_CONFIG), _describe(lora, model, list(tensors))
    )
    return folder


def _describe(lora: Lora, model: str, names: list[str]) -> dict[str, object]:
    layers = sorted({name.rpartition(".lora_")[0] for name in names})
    kinds = {layer.rpartition(".")[2] for layer in layers}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        # An expression, because the vision tower has layers with the same last names.
        "target_modules": _match_layers(kinds),
    }


def _match_layers(kinds: set[str]) -> str:
    """A regular expression that matches the names of the adapted layers and no others."""
    language = sorted(kinds & set(LANGUAGE_TARGETS))
    projector = sorted(kinds - set(LANGUAGE_TARGETS))
    parts = []
    if language:
        parts.append(rf"language_model\..*\.({'|'.join(language)})")
    if projector:
        parts.append(rf"multi_modal_projector\.({'|'.join(projector)})")
    return rf"(.*\.)?({'|'.join(parts)})"


def merge_adapters(
    start: Path,
    adapters: Mapping[str, torch.Tensor],
    scale: float,
    name_on_disk: Callable[[str], str] = disk_name_of_memory,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of the start model by its name on disk, with the adapters added in fp32.

    Args:
        adapters: The matrices by their names in the loaded model.
        scale: The number that the product of two matrices is multiplied by.
        name_on_disk: Gives the name in the start model's files of a loaded model's parameter.
    """
    layers = {name.removesuffix(_DOWN) for name in adapters if name.endswith(_DOWN)}
    adapted = {name_on_disk(layer + ".weight"): layer for layer in layers}
    for name, tensor in read_tensors(start):
        layer = adapted.pop(name, None)
        if layer is None:
            yield name, tensor
            continue
        yield name, tensor.float() + adapters[layer + _UP] @ adapters[layer + _DOWN] * scale
    assert not adapted, f"adapters without a weight: {sorted(adapted)}"
