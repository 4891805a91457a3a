"""Finds the family of a checkpoint."""

import json
from pathlib import Path

from s4v_core.errors import ConfigError
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
    kind = found.get("model_type", "no checkpoint")
    if kind in _FAMILIES:
        return _FAMILIES[kind]
    if "mm_vision_tower" in found:
        raise ConfigError(
            f"model: {folder} is in the original layout; convert it first: "
            "python ray_jobs/convert.py SRC DST"
        )
    raise ConfigError(
        f"model: found {kind} in {folder}, allowed LLaVA-1.5 (llava) and Qwen2.5-VL (qwen2_5_vl)"
    )
