"""Which checkpoints the engines can load at all, told from config.json alone."""

from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from s4v_core.errors import ConfigError
from s4v_core.installed_names import list_model_types, list_multimodal_architectures

_VISION_WORDS = ("vision", "visual", "image", "img_", "vit_", "mm_")
"""Parts of names in config.json that only models with a vision part have."""


_ORIGINAL_CLASSES = ("Share4V", "LlavaLlama")
"""Beginnings of the names of classes in share4v's and LLaVA's own code."""


def refuse_unusable(model: str, config: Mapping[str, Any], takes_images: bool) -> None:
    """Refuse a checkpoint in the original layout, one that takes no images, or an unknown one.

    Args:
        config: Contents of its config.json.
        takes_images: Whether it takes images, or whether that does not matter.

    Raises:
        ConfigError: It is one of these; the sentence says which, and what to do.
    """
    kind = config.get("model_type")
    if is_original_layout(config):
        is_here = Path(model).expanduser().is_dir()
        fetch = "" if is_here else f"in a local copy SRC (hf download {model} --local-dir SRC), "
        raise ConfigError(
            f"model: {model} is in the original layout of LLaVA; convert it first: {fetch}"
            f"python ray_jobs/convert.py {model if is_here else 'SRC'} DST"
        )
    if not takes_images:
        raise ConfigError(f"model: {model} takes no images (model_type {kind})")
    known = list_model_types()
    if kind is None or not known or kind in known:
        return
    if config.get("auto_map"):
        raise ConfigError(
            f"model: {model} needs code of its own repository (model_type {kind}), and such code "
            "is never run here; name a conversion that transformers knows, or serve it elsewhere "
            "and use --engine openai"
        )
    version = metadata.version("transformers")
    writer = config.get("transformers_version")
    written = f", and it was written by {writer}" if writer else ""
    raise ConfigError(
        f"model: {model} has the architecture {kind}, which the installed transformers {version} "
        f"does not know{written}; install versions of transformers and vllm that do"
    )


def is_original_layout(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a checkpoint in the layout of LLaVA's or share4v's code."""
    classes = config.get("architectures") or ()
    if any(str(name).startswith(_ORIGINAL_CLASSES) for name in classes):
        return True
    return "mm_vision_tower" in config and classes != ["LlavaForConditionalGeneration"]


def has_vision_part(config: Mapping[str, Any]) -> bool:
    """Whether a model has a vision part: vLLM says so, or the name of a setting does."""
    names = set(config.get("architectures") or ())
    if names & list_multimodal_architectures():
        return True
    return any(word in name for name in _list_names(config) for word in _VISION_WORDS)


def _list_names(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        yield name
        if isinstance(value, Mapping):
            yield from _list_names(value)
