"""Merges a LoRA adapter in PEFT's layout into the tensors of its base model.

A merged weight is W + scale * B @ A. It is computed when it is read, so that one tensor at a time
is in memory.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from s4v_core.errors import InputError
from s4v_core.model.names import disk_name_of_any
from s4v_core.model.weight_files import StoredTensor, open_file

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_OTHERS = "non_lora_trainables.bin"
"""File in which LLaVA saves what it trained beside the adapter, such as the projector."""

_UNMERGED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "biases of lora_B (lora_bias)",
    "layer_replication": "replicated layers (layer_replication)",
    "trainable_token_indices": "single rows of embeddings (trainable_token_indices)",
    "target_parameters": "parameters outside of layers (target_parameters)",
    "alora_invocation_tokens": "Activated LoRA",
    "arrow_config": "Arrow",
}
"""Settings of PEFT that compute something else than W + scale * B @ A."""

_MOVED_BASES = ("pissa", "olora", "corda", "loftq")
"""Initialisations that change the base model's own weights."""

_FACTOR = re.compile(r"(.+?)\.lora_(embedding_)?([AB])(?:\.[^.]+)?(?:\.weight)?")
"""Name of one factor; PEFT in memory adds the adapter's name, which files mostly lack."""


@dataclass(slots=True)
class _Factors:
    """The two factors of one weight's change.

    Attributes:
        module: Name of the adapted module, as the patterns of adapter_config.json see it.
        is_embedding: The weight has one row per token, so that the product is transposed.
        found: The factors by their letters, A and B.
    """

    module: str
    is_embedding: bool
    found: dict[str, StoredTensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An opened adapter.

    Attributes:
        folder: Its folder.
        config: Contents of its adapter_config.json.
        factors: Factors of each changed weight, by the weight's name on disk.
        replaced: Tensors that take the place of the base's, by name on disk: modules_to_save,
            biases, and LLaVA's non_lora_trainables.bin.
    """

    folder: Path
    config: Mapping[str, Any]
    factors: Mapping[str, _Factors]
    replaced: Mapping[str, StoredTensor]


def open_adapter(folder: Path) -> Adapter:
    """Open an adapter's files.

    Raises:
        InputError: It is of a kind that cannot be merged, or its files are incomplete.
    """
    config = _read_adapter_config(folder)
    tensors: dict[str, StoredTensor] = {}
    weights = [folder / name for name in _WEIGHTS if (folder / name).exists()]
    if not weights:
        raise InputError(str(folder), f"holds no {' or '.join(_WEIGHTS)}")
    tensors |= open_file(weights[0])
    if not any(_FACTOR.fullmatch(name) for name in tensors):
        raise InputError(str(weights[0]), "holds no factors of a LoRA (lora_A, lora_B)")
    if (folder / _OTHERS).exists():
        tensors |= open_file(folder / _OTHERS)
    factors: dict[str, _Factors] = {}
    replaced: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        _sort_in(folder, name, tensor, factors, replaced)
    for name, one in factors.items():
        if one.found.keys() != {"A", "B"}:
            raise InputError(str(folder), f"holds one of lora_A and lora_B alone for {name}")
    return Adapter(folder, config, factors, replaced)


def _read_adapter_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
        kind = config.get("peft_type")
    except (ValueError, AttributeError) as error:
        raise InputError(str(path), f"is no adapter's config ({error})") from None
    if kind != "LORA":
        raise InputError(
            str(path), f"peft_type: found {kind}, allowed LORA; merge it with PEFT itself"
        )
    for name, words in _UNMERGED.items():
        if config.get(name):
            raise InputError(str(path), f"found {words}, which is not merged here; use PEFT itself")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MOVED_BASES):
        raise InputError(
            str(path),
            f"init_lora_weights: found {start}, which changed the base model itself; save the "
            "adapter with path_initial_model_for_weight_conversion first",
        )
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise InputError(
            str(path), f"lora_alpha: found {config.get('lora_alpha')}, allowed a number"
        )
    return config


def _sort_in(
    folder: Path,
    name: str,
    tensor: StoredTensor,
    factors: dict[str, _Factors],
    replaced: dict[str, StoredTensor],
) -> None:
    """Put a tensor of the adapter among the factors or the replaced tensors."""
    plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    plain = re.sub(r"\.modules_to_save(\.default)?\.", ".", plain)
    if "lora_magnitude_vector" in name:
        raise InputError(
            str(folder), "found DoRA (lora_magnitude_vector), which is not merged here"
        )
    match = _FACTOR.fullmatch(plain)
    try:
        disk = disk_name_of_any(f"{match[1]}.weight" if match else plain)
    except KeyError:
        raise InputError(
            str(folder), f"{name}: LLaVA-1.5 has no such place; it adapts another kind of model"
        ) from None
    if match is None:
        replaced[disk] = tensor
        return
    one = factors.setdefault(disk, _Factors(match[1], bool(match[2])))
    if match[3] in one.found:
        raise InputError(str(folder), f"holds several adapters ({name}); save one of them alone")
    one.found[match[3]] = tensor


def merge(adapter: Adapter, base: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Merge an adapter into the base's tensors, which are computed when they are read.

    Args:
        base: Tensors by name on disk. A replaced tensor that it lacks is added.

    Raises:
        InputError: The adapter's tensors do not fit those of the base.
    """
    merged = dict(base)
    for name, tensor in adapter.replaced.items():
        _refuse_misfit(adapter, name, base.get(name, tensor).shape, tensor.shape)
        merged[name] = tensor
    for name, factors in adapter.factors.items():
        if name not in merged:
            raise InputError(str(adapter.folder), f"adapts {name}, which the base does not have")
        merged[name] = _merge_one(adapter, name, factors, merged[name])
    return merged


def _merge_one(
    adapter: Adapter, name: str, factors: _Factors, weight: StoredTensor
) -> StoredTensor:
    """The weight plus its change, in the weight's own type."""
    a, b = factors.found["A"], factors.found["B"]
    turned = factors.is_embedding or bool(adapter.config.get("fan_in_fan_out"))
    shape = (b.shape[:1], a.shape[1:])
    wanted = (*shape[1], *shape[0]) if turned else (*shape[0], *shape[1])
    rank = a.shape[0] if a.shape else 0
    if len(a.shape) < 2 or len(b.shape) < 2 or b.shape[1] != rank:
        raise InputError(
            str(adapter.folder),
            f"{name}: found lora_A of shape {a.shape} and lora_B of shape {b.shape}; it was saved "
            "incompletely (as by DeepSpeed's stage 3 without gathering)",
        )
    _refuse_misfit(adapter, name, weight.shape, wanted)
    scale = _find_scale(adapter, factors.module, rank)

    def read() -> torch.Tensor:
        whole = weight.read()
        exact = torch.promote_types(whole.dtype, torch.float32)
        change = b.read().to(exact).flatten(1) @ a.read().to(exact).flatten(1)
        change = change.T if turned else change.reshape(whole.shape)
        return whole.to(exact).add_(change, alpha=scale).to(whole.dtype)

    return StoredTensor(weight.shape, weight.dtype, read)


def _find_scale(adapter: Adapter, module: str, rank: int) -> float:
    """Factor of B @ A: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    config = adapter.config
    wanted = _match_pattern(config.get("rank_pattern"), module, config.get("r"))
    if wanted is not None and wanted != rank:
        raise InputError(
            str(adapter.folder), f"{module}: found rank {rank}, its {CONFIG} says {wanted}"
        )
    alpha = _match_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _match_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as in PEFT."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _refuse_misfit(
    adapter: Adapter, name: str, found: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    if found != wanted:
        raise InputError(
            str(adapter.folder),
            f"{name}: made for the shape {wanted}, the base has {found}; it adapts another model",
        )
