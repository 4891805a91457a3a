"""Checkpoints with the widths of ShareGPT4V-7B, as sparse files: large to read, small on disk."""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from s4v_core.model.builders import build_sharegpt4v_7b_config
from s4v_core.model.names import EMBEDDINGS, TOWER, disk_name_of_memory, original_name_of_disk
from tests.model.untrained import untrained_tokenizer

ROWS = 32_000
_FILE_BYTES = 5 << 30

Shapes = Mapping[str, tuple[int, ...]]


def write_large(folder: Path, layers: int) -> None:
    """Write an original checkpoint of zeros: language model, projector, and tower in a folder.

    Args:
        layers: Number of the language model's layers; 32 are those of 7B.
    """
    config = build_sharegpt4v_7b_config()
    config.text_config.num_hidden_layers = layers
    with torch.device("meta"):
        state = LlavaForConditionalGeneration(config).state_dict()
    disk = {disk_name_of_memory(name): tuple(value.shape) for name, value in state.items()}
    parts: dict[bool, dict[str, tuple[int, ...]]] = {False: {}, True: {}}
    for name, shape in disk.items():
        rows = (ROWS, *shape[1:]) if name in EMBEDDINGS else shape
        parts[name.startswith(TOWER)][original_name_of_disk(name)] = rows
    _write_files(folder, parts[False])
    _write_files(folder / "vision_tower", parts[True])
    about = config.text_config.to_dict() | {
        "architectures": ["Share4VLlamaForCausalLM"],
        "model_type": "share4v",
        "mm_vision_tower": "Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12",
        "mm_projector_type": "mlp2x_gelu",
        "vocab_size": ROWS,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(about))
    config.vision_config.save_pretrained(folder / "vision_tower")
    untrained_tokenizer().save_pretrained(folder)


def write_large_adapter(folder: Path, layers: int, rank: int = 64) -> None:
    """Write a LoRA adapter of zeros for every matrix of the language model's layers."""
    shapes = {}
    for layer in range(layers):
        for name, rows, columns in (
            *((f"self_attn.{part}_proj", 4096, 4096) for part in "qkvo"),
            ("mlp.gate_proj", 11008, 4096),
            ("mlp.up_proj", 11008, 4096),
            ("mlp.down_proj", 4096, 11008),
        ):
            place = f"base_model.model.model.layers.{layer}.{name}"
            shapes[f"{place}.lora_A.weight"] = (rank, columns)
            shapes[f"{place}.lora_B.weight"] = (rows, rank)
    folder.mkdir(parents=True)
    _write_file(folder / "adapter_model.safetensors", shapes.items())
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 128}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _write_files(folder: Path, shapes: Shapes) -> None:
    """Write files of up to five gigabytes with an index, as the published ones are."""
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in shapes.items():
        size += _count_bytes(shape)
        if size > _FILE_BYTES:
            groups.append([])
            size = _count_bytes(shape)
        groups[-1].append((name, shape))
    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        _write_file(folder / file, group)
        places |= {name: file for name, _ in group}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def _write_file(path: Path, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """Write a header, and zeros that take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes:
        start, end = end, end + _count_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def _count_bytes(shape: tuple[int, ...]) -> int:
    size = 2
    for length in shape:
        size *= length
    return size
