"""Chooses the vision tower of a checkpoint in the original layout.

It may lie in the main files, in a folder beside them, or in a folder that the user names. A tuned
tower is never replaced silently by another one.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig

from s4v_core.errors import InputError
from s4v_core.model.named_tensors import Tensors, open_originals
from s4v_core.model.names import TOWER
from s4v_core.model.source_config import (
    find_known_tower,
    read_tower_config,
    refuse_other_resolution,
)
from s4v_core.model.weight_files import StoredTensor, list_weight_files

TOWER_FOLDER = "vision_tower"
"""Folder in which share4v saves the tuned tower, beside language model and projector."""


def choose_tower(
    source: Path,
    config: Mapping[str, Any],
    inside: Tensors,
    tower: Path | None,
    left_out: Counter[str],
) -> tuple[CLIPVisionConfig, Tensors]:
    """Choose among the tower in the source's main files and the one in a folder of its own."""
    own = source / TOWER_FOLDER
    folder = tower if tower is not None else own if own.is_dir() else None
    if folder is None or (folder.is_dir() and not (folder / "config.json").exists()):
        if folder is not None or not inside:
            place = str(folder or own)
            raise InputError(place, "holds no vision tower (config.json); name it with --tower")
        return _describe_inside(source, config, inside), inside
    vision = read_tower_config(folder)
    refuse_other_resolution(source, config, folder, vision)
    if inside and not list_weight_files(folder):
        return vision, inside
    outside = open_originals(folder, left_out)
    differing = [n for n in inside if n in outside and not _is_same(inside[n], outside[n])]
    if differing and tower is not None:
        raise InputError(
            str(source),
            f"its own files hold a vision tower that differs from {tower} in {len(differing)} of "
            f"{len(inside)} tensors; to keep it, put {tower}/config.json alone into {own} and "
            "leave out --tower",
        )
    if tower is not None and (own / "config.json").exists() and not tower.samefile(own):
        left_out[f"the vision tower in {own}, as --tower names another"] += len(
            open_originals(own, Counter())
        )
    if inside:
        reason = f"the vision tower in the main files, {'other than' if differing else 'as'}"
        left_out[f"{reason} that in {folder}"] += len(inside)
    return vision, outside


def _describe_inside(source: Path, config: Mapping[str, Any], inside: Tensors) -> CLIPVisionConfig:
    """Config of a tower in the main files, which bring none: that of the published tower."""
    known = find_known_tower(config)
    width = inside.get(f"{TOWER}embeddings.class_embedding")
    if known is None or width is None or width.shape != (known.hidden_size,):
        raise InputError(
            str(source),
            f"its own files hold a vision tower ({config.get('mm_vision_tower')}) without its "
            f"config; put the tower's config.json into {source / TOWER_FOLDER}",
        )
    return known


_PRECISION: Mapping[torch.dtype, int] = {
    torch.bfloat16: 0,
    torch.float16: 1,
    torch.float32: 2,
    torch.float64: 3,
}


def _is_same(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are equal as far as the coarser type of both can tell."""
    if one.shape != other.shape or one.dtype is None or other.dtype is None:
        return False
    coarse = min(one.dtype, other.dtype, key=lambda dtype: _PRECISION[dtype])
    return torch.equal(one.read().to(coarse), other.read().to(coarse))
