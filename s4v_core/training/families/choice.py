"""Finds the family of a checkpoint."""

import json
from pathlib import Path

from s4v_core.checkpoints import ADAPTER
from s4v_core.errors import ConfigError
from s4v_core.model.checkpoint_kinds import is_original_layout
from s4v_core.training.families.family import Family
from s4v_core.training.families.llava import LlavaFamily
from s4v_core.training.families.qwen import QwenFamily

_FAMILIES: dict[str, Family] = {"llava": LlavaFamily(), "qwen2_5_vl": QwenFamily()}
"""Families by model_type."""


def find_family(folder: Path) -> Family:
    """The family of a checkpoint folder.

    Raises:
        ConfigError: The folder holds no checkpoint of a family that can be trained.
    """
    path = folder / "config.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if is_original_layout(found):
        raise ConfigError(
            f"model: {folder} is in the original layout; convert it first: "
            f"python ray_jobs/convert.py {folder} DST"
        )
    kind = found.get("model_type", "no checkpoint")
    if kind in _FAMILIES:
        return _FAMILIES[kind]
    if not found and (folder / ADAPTER[0]).exists():
        raise ConfigError(
            f"model: {folder} holds an adapter alone; merge it into its model first: "
            f"python ray_jobs/convert.py {folder} DST --base MODEL"
        )
    raise ConfigError(
        f"model: found {kind} in {folder}, allowed LLaVA-1.5 (llava) and Qwen2.5-VL (qwen2_5_vl)"
    )
