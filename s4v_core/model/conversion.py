"""Converts checkpoints between the original ShareGPT4V / LLaVA-1.5 layout and ours, which
transformers and vLLM load.

Works tensor by tensor, so that a 7B model needs only the memory of one output file.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from s4v_core import chat
from s4v_core.errors import ConfigError, InputError
from s4v_core.model.builders import build_llava_config, count_vocabulary_rows
from s4v_core.model.names import (
    EMBEDDINGS,
    TOWER,
    disk_name_of_original,
    original_name_of_disk,
)
from s4v_core.model.processor import build_processor
from s4v_core.model.tokenizer import add_image_and_pad, load_tokenizer
from s4v_core.model.weight_files import WeightWriter, read_tensors

_NEW_ROW_VARIANCE = 1e-5
"""New rows are drawn from N(mean, 1e-5 x covariance) of the old ones, as transformers does."""

_TOWER_FOLDER = "vision_tower"
"""Folder in which share4v saves the tuned tower, beside language model and projector."""

_ORIGINAL_CONFIG = "original_config.json"
"""Copy of the source's config, which a conversion back needs."""

_OnTensor = Callable[[str], None]


def convert(source: Path, target: Path, tower: Path | None, on_tensor: _OnTensor) -> str:
    """Convert `source` to the other layout; `target` appears only when it is complete.

    Returns:
        The written layout: "ours" or "original".

    Raises:
        ConfigError: `target` exists.
        InputError: `source` or `tower` is no checkpoint of this architecture, or incomplete.
    """
    if target.exists():
        raise ConfigError(f"target: {target} exists; name a folder that does not")
    original = is_original(source)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted conversion
    if original:
        to_disk_layout(source, tower, partial, on_tensor)
    else:
        to_original_layout(source, partial, on_tensor)
    partial.rename(target)
    return "ours" if original else "original"


def is_original(folder: Path) -> bool:
    """Whether a checkpoint folder is in the original layout.

    Raises:
        InputError: It is no checkpoint of this architecture.
    """
    config = _read_config(folder)
    if config.get("architectures") == ["LlavaForConditionalGeneration"]:
        return False
    if "mm_vision_tower" in config:
        return True
    raise InputError(str(folder), "is neither a share4v / LLaVA-1.5 checkpoint nor one of ours")


def to_disk_layout(source: Path, tower: Path | None, target: Path, on_tensor: _OnTensor) -> None:
    """Convert original to ours: names, `<image>` and `<pad>`, vocabulary rows, config, processor.

    Args:
        tower: Folder of the tuned vision tower; None is `vision_tower` inside `source`. The stock
            OpenAI tower is never used in its place, because the tuned one would silently be lost.
        on_tensor: Called with the name of each written tensor.

    Raises:
        InputError: A part is missing.
    """
    config = _read_config(source)
    tower = tower or source / _TOWER_FOLDER
    if not (tower / "config.json").exists():
        raise InputError(str(tower), "holds no vision tower (config.json); name it with --tower")
    tokenizer = load_tokenizer(source)
    add_image_and_pad(tokenizer)
    rows = count_vocabulary_rows(tokenizer)
    writer = WeightWriter(target)
    for folder in (source, tower):
        for name, tensor in read_tensors(folder):
            disk = disk_name_of_original(name)
            # The main files hold the tower's tensors as they were before tuning.
            if disk is None or (folder == source and disk.startswith(TOWER)):
                continue
            writer.add(disk, append_rows(tensor, rows) if disk in EMBEDDINGS else tensor)
            on_tensor(disk)
    ours = _build_our_config(config, _read_config(tower), tokenizer, rows)
    ours.save_pretrained(target)
    vision = ours.vision_config
    pad = config.get("image_aspect_ratio") == "pad"
    build_processor(tokenizer, vision.image_size, vision.patch_size, pad).save_pretrained(target)
    (target / _ORIGINAL_CONFIG).write_text(json.dumps(config, indent=2))
    if (source / "tokenizer.model").exists():
        shutil.copy(source / "tokenizer.model", target / "tokenizer.model")
    writer.close()


def to_original_layout(source: Path, target: Path, on_tensor: _OnTensor) -> None:
    """Convert ours to original: the tower in its own folder, without the added vocabulary rows.

    Raises:
        InputError: The checkpoint has no copy of the original config, which cannot be rebuilt.
    """
    kept = source / _ORIGINAL_CONFIG
    if not kept.exists():
        raise InputError(
            str(source), f"holds no {_ORIGINAL_CONFIG}; only converted checkpoints go back"
        )
    config = json.loads(kept.read_text())
    rows = config["vocab_size"]
    writers = {False: WeightWriter(target), True: WeightWriter(target / _TOWER_FOLDER)}
    for name, tensor in read_tensors(source):
        in_tower = name.startswith(TOWER)
        original = original_name_of_disk(name)
        writers[in_tower].add(original, tensor[:rows] if name in EMBEDDINGS else tensor)
        on_tensor(original)
    tower = CLIPVisionConfig(**_read_config(source)["vision_config"])
    tower.architectures = ["CLIPVisionModel"]
    (target / _TOWER_FOLDER).mkdir(parents=True, exist_ok=True)
    tower.save_pretrained(target / _TOWER_FOLDER)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    if (source / "tokenizer.model").exists():
        shutil.copy(source / "tokenizer.model", target / "tokenizer.model")
    for writer in writers.values():
        writer.close()


def append_rows(table: torch.Tensor, rows: int) -> torch.Tensor:
    """`table` of shape (tokens, width) with random rows appended until it has `rows` rows.

    The seed is fixed, so the same table always gets the same new rows.
    """
    more = rows - table.shape[0]
    if more <= 0:
        return table
    whole = table.float()
    mean = whole.mean(dim=0)
    # A random mixture of the centred rows has their covariance, without forming that matrix.
    chance = torch.Generator().manual_seed(0)
    weights = torch.randn(more, table.shape[0], generator=chance)
    drawn = weights @ (whole - mean) * (_NEW_ROW_VARIANCE / table.shape[0]) ** 0.5
    return torch.cat([table, (mean + drawn).to(table.dtype)])


def _build_our_config(
    config: dict[str, Any], tower: dict[str, Any], tokenizer: Any, rows: int
) -> LlavaConfig:
    vision = CLIPVisionConfig(**tower.get("vision_config", tower))
    text = LlamaConfig(**{k: v for k, v in config.items() if k in _TEXT_FIELDS})
    text.vocab_size = rows
    text.pad_token_id = tokenizer.pad_token_id
    return build_llava_config(
        vision,
        text,
        image_id=tokenizer.convert_tokens_to_ids(chat.IMAGE),
        pad_id=tokenizer.pad_token_id,
        feature_layer=config.get("mm_vision_select_layer", -2),
        dtype=config.get("torch_dtype", "bfloat16"),
    )


_TEXT_FIELDS = frozenset(
    (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "bos_token_id",
        "eos_token_id",
        "attention_bias",
        "head_dim",
    )
)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise InputError(str(folder), "holds no config.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found
