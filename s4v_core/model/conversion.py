"""Original ShareGPT4V / LLaVA-1.5 checkpoint <-> the layout that transformers and vLLM load.

Works tensor by tensor: a 7B model passes through in the memory of one output file.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig

from s4v_core import chat
from s4v_core.errors import ConfigError, InputError
from s4v_core.model.builders import llava_config, vocabulary_rows
from s4v_core.model.names import (
    EMBEDDINGS,
    TOWER,
    disk_name_of_original,
    original_name_of_disk,
)
from s4v_core.model.processor import build_processor
from s4v_core.model.shards import ShardWriter, read_tensors

PAD = "<pad>"
NEW_ROW_VARIANCE = 1e-5
"""New rows come from N(mean, 1e-5 x covariance) of the old ones (transformers' resize rule)."""

TOWER_FOLDER = "vision_tower"
"""Where share4v saves the tuned tower, beside language model and projector."""

KEPT = "original_config.json"
"""The source's config, kept for the way back."""

OnTensor = Callable[[str], None]


def convert(source: Path, target: Path, tower: Path | None, on_tensor: OnTensor) -> str:
    """Convert in the direction that follows from what `source` is; `target` appears whole.

    Returns:
        The layout that was written: "ours" or "original".

    Raises:
        ConfigError: `target` exists.
        InputError: `source` or `tower` is not what it should be.
    """
    if target.exists():
        raise ConfigError(f"target: {target} exists; name a folder that does not")
    original = is_original(source)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a conversion that was cut off
    if original:
        to_disk_layout(source, tower, partial, on_tensor)
    else:
        to_original_layout(source, partial, on_tensor)
    partial.rename(target)
    return "ours" if original else "original"


def is_original(folder: Path) -> bool:
    """Whether a checkpoint folder is in the original layout.

    Raises:
        InputError: It is no checkpoint of this architecture at all.
    """
    config = _config(folder)
    if config.get("architectures") == ["LlavaForConditionalGeneration"]:
        return False
    if "mm_vision_tower" in config:
        return True
    raise InputError(str(folder), "is neither a share4v / LLaVA-1.5 checkpoint nor one of ours")


def to_disk_layout(source: Path, tower: Path | None, target: Path, on_tensor: OnTensor) -> None:
    """Original -> ours: names, `<image>` and `<pad>`, vocabulary rows, config and processor.

    Args:
        tower: Folder of the tuned vision tower; default: `vision_tower` inside `source`. The stock
            OpenAI tower in its place would silently lose the tuned one.
        on_tensor: Called with the name of each tensor that was written.

    Raises:
        InputError: A part is missing.
    """
    config = _config(source)
    tower = tower or source / TOWER_FOLDER
    if not (tower / "config.json").exists():
        raise InputError(str(tower), "holds no vision tower (config.json); name it with --tower")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    tokenizer.add_special_tokens({"additional_special_tokens": [chat.IMAGE], "pad_token": PAD})
    rows = vocabulary_rows(tokenizer)
    writer = ShardWriter(target)
    for folder in (source, tower):
        for name, tensor in read_tensors(folder):
            disk = disk_name_of_original(name)
            # The tower's tensors inside the main files are the ones it started from.
            if disk is None or (folder == source and disk.startswith(TOWER)):
                continue
            writer.add(disk, grown_rows(tensor, rows) if disk in EMBEDDINGS else tensor)
            on_tensor(disk)
    ours = _our_config(config, _config(tower), tokenizer, rows)
    ours.save_pretrained(target)
    vision = ours.vision_config
    pad = config.get("image_aspect_ratio") == "pad"
    build_processor(tokenizer, vision.image_size, vision.patch_size, pad).save_pretrained(target)
    (target / KEPT).write_text(json.dumps(config, indent=2))
    if (source / "tokenizer.model").exists():
        shutil.copy(source / "tokenizer.model", target / "tokenizer.model")
    writer.close()


def to_original_layout(source: Path, target: Path, on_tensor: OnTensor) -> None:
    """Ours -> original: the tower in its own folder, added vocabulary rows cut off.

    Raises:
        InputError: The config of the original was not kept and cannot be made up.
    """
    kept = source / KEPT
    if not kept.exists():
        raise InputError(str(source), f"holds no {KEPT}; only converted checkpoints go back")
    config = json.loads(kept.read_text())
    rows = config["vocab_size"]
    writers = {False: ShardWriter(target), True: ShardWriter(target / TOWER_FOLDER)}
    for name, tensor in read_tensors(source):
        in_tower = name.startswith(TOWER)
        original = original_name_of_disk(name)
        writers[in_tower].add(original, tensor[:rows] if name in EMBEDDINGS else tensor)
        on_tensor(original)
    tower = CLIPVisionConfig(**_config(source)["vision_config"])
    tower.architectures = ["CLIPVisionModel"]
    (target / TOWER_FOLDER).mkdir(parents=True, exist_ok=True)
    tower.save_pretrained(target / TOWER_FOLDER)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    if (source / "tokenizer.model").exists():
        shutil.copy(source / "tokenizer.model", target / "tokenizer.model")
    for writer in writers.values():
        writer.close()


def grown_rows(table: torch.Tensor, rows: int) -> torch.Tensor:
    """`table` of shape (tokens, width) with drawn rows behind its own, which stay as they are.

    The draw is fixed: the same table always grows the same way.
    """
    more = rows - table.shape[0]
    if more <= 0:
        return table
    whole = table.float()
    mean = whole.mean(dim=0)
    # A mixture of the centred rows has their covariance; the matrix itself is never formed.
    chance = torch.Generator().manual_seed(0)
    weights = torch.randn(more, table.shape[0], generator=chance)
    drawn = weights @ (whole - mean) * (NEW_ROW_VARIANCE / table.shape[0]) ** 0.5
    return torch.cat([table, (mean + drawn).to(table.dtype)])


def _our_config(
    config: dict[str, Any], tower: dict[str, Any], tokenizer: Any, rows: int
) -> LlavaConfig:
    vision = CLIPVisionConfig(**tower.get("vision_config", tower))
    text = LlamaConfig(**{k: v for k, v in config.items() if k in _TEXT_FIELDS})
    text.vocab_size = rows
    text.pad_token_id = tokenizer.pad_token_id
    return llava_config(
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


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise InputError(str(folder), "holds no config.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found
