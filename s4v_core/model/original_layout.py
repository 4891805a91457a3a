"""Writes a checkpoint of ours in the original share4v / LLaVA-1.5 layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import CLIPVisionConfig, LlavaConfig

from s4v_core.errors import InputError
from s4v_core.model.architecture import list_needed, refuse_differences
from s4v_core.model.named_tensors import open_ours
from s4v_core.model.names import EMBEDDINGS, TOWER, original_name_of_disk
from s4v_core.model.source_config import read_config
from s4v_core.model.tower_choice import TOWER_FOLDER
from s4v_core.model.weight_files import WeightWriter, open_weights

ORIGINAL_CONFIG = "original_config.json"
"""Copy of the source's config, which a conversion back needs."""


def to_original_layout(source: Path, target: Path, on_tensor: Callable[[str], None]) -> None:
    """Convert ours to original: the tower in its own folder, without the added vocabulary rows.

    Raises:
        InputError: The checkpoint has no copy of the original config, which cannot be rebuilt.
    """
    kept = source / ORIGINAL_CONFIG
    if not kept.exists():
        raise InputError(
            str(source), f"holds no {ORIGINAL_CONFIG}; only converted checkpoints go back"
        )
    config = json.loads(kept.read_text())
    tensors = open_ours(source)
    refuse_differences(source, tensors, list_needed(LlavaConfig.from_pretrained(source)))
    rows = config.get("vocab_size") or tensors[EMBEDDINGS[0]].shape[0]
    if config.get("tie_word_embeddings"):
        config["tie_word_embeddings"] = False  # ours stores a head, which may have learnt
    is_padding = _pads_images(source)
    if is_padding != (config.get("image_aspect_ratio") == "pad"):
        config["image_aspect_ratio"] = "pad" if is_padding else "square"  # training chose it anew
    folders = {False: target, True: target / TOWER_FOLDER}
    writers = {in_tower: WeightWriter(folder) for in_tower, folder in folders.items()}
    for name, tensor in tensors.items():
        original, whole = original_name_of_disk(name), tensor.read()
        writers[name.startswith(TOWER)].add(original, whole[:rows] if name in EMBEDDINGS else whole)
        on_tensor(original)
    tower = CLIPVisionConfig(**read_config(source)["vision_config"])
    tower.architectures = ["CLIPVisionModel"]
    tower.save_pretrained(folders[True])
    (target / "config.json").write_text(json.dumps(config, indent=2))
    is_piece = (source / "tokenizer.model").exists()
    for path in source.glob("tokenizer.model" if is_piece else "tokenizer*.json"):
        shutil.copy(path, target / path.name)
    for writer in writers.values():
        writer.close()
    written = len(open_weights(target)) + len(open_weights(folders[True]))
    if written != len(tensors):
        raise InputError(str(target), f"holds {written} of {len(tensors)} tensors")


def _pads_images(folder: Path) -> bool:
    """Whether the processor of a checkpoint of ours pads images to a square."""
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    return bool((settings.get("image_processor") or {}).get("do_pad"))
