"""What a caption pass needs to know of a checkpoint before anything is loaded. Reads JSON alone."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing

OWN_SIZE_PX = 1344
"""Longest side for models that choose their own resolution; what they take is at most near it."""

SETTINGS = ("*.json", "*.jinja")
"""Files of a checkpoint that say what it is."""

WEIGHTS = ("*.safetensors", "tokenizer.model")
"""Files that are needed besides to load it."""

_SMALL = 64 << 20


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """Of one checkpoint.

    Attributes:
        framing: How its processor frames pictures, so that CPU tasks can do it beforehand.
        template: Name in `chat.TEMPLATES`, or "model" for the checkpoint's own chat template.
        revision: Commit of a hub model; of a folder, a hash that changes with its files.
    """

    framing: Framing
    template: str
    revision: str


def read_facts(model: str) -> CheckpointFacts:
    """Facts of a folder or of a hub id.

    Raises:
        ConfigError: There is no such checkpoint, or it takes no images.
    """
    folder, revision = locate(model)
    config = _json(folder, "config.json")
    if not config:
        raise ConfigError(
            f"model: {model} holds no config.json; name a checkpoint folder or hub id"
        )
    if "vision_config" not in config and "vision_tower" not in json.dumps(config):
        raise ConfigError(f"model: {model} takes no images (model_type {config.get('model_type')})")
    template = "vicuna_v1" if config.get("model_type") == "llava" else "model"
    return CheckpointFacts(_framing(folder), template, revision or fingerprint(folder))


def locate(model: str, patterns: tuple[str, ...] = SETTINGS) -> tuple[Path, str | None]:
    """The folder of a checkpoint, brought from the hub if need be, and its commit there.

    Raises:
        ConfigError: There is no such checkpoint.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, None
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ConfigError(f"model: no such folder: {model}")
    try:
        found = Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError):
        raise ConfigError(
            f"model: {model} is neither a folder here nor a model that the hub gives out"
        ) from None
    return found, found.name


def _framing(folder: Path) -> Framing:
    """LLaVA-1.5 sees one square; other architectures get the picture and choose themselves."""
    processor = _json(folder, "processor_config.json")
    images = processor.get("image_processor") or _json(folder, "preprocessor_config.json")
    kind = str(images.get("image_processor_type", ""))
    if not kind.startswith(("CLIPImageProcessor", "LlavaImageProcessor")):
        return Framing("fit", OWN_SIZE_PX)
    size = images.get("crop_size") or images.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    if not side:
        return Framing("fit", OWN_SIZE_PX)
    return Framing("pad" if images.get("do_pad") else "crop", int(side))


def fingerprint(folder: Path) -> str:
    """Hash of names, sizes and contents; of large files the first and last MiB stand for all."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        whole.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _SMALL:
                whole.update(file.read())
            else:
                whole.update(file.read(1 << 20))
                file.seek(size - (1 << 20))
                whole.update(file.read())
    return "sha256:" + whole.hexdigest()[:16]


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"model: {path} is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}
