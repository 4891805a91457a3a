"""Facts about a checkpoint that a caption pass needs before it loads anything. Reads only JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4v_core.checkpoints import fingerprint, locate_checkpoint, refuse_other_kinds
from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.model.checkpoint_kinds import refuse_unusable

OWN_SIZE_PX = 1344
"""Longest side in pixels for models that choose their own resolution: about the most they use."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """Facts about one checkpoint.

    Attributes:
        framing: How its processor frames pictures, so that CPU tasks can do it beforehand.
        template: Name in `chat.TEMPLATES`, or "model" for the checkpoint's own chat template.
        revision: Commit of a hub model, else a hash that changes with the files.
        quantization: The method by which its weights are quantized, as its config.json names it;
            None if they are not.
    """

    framing: Framing
    template: str
    revision: str
    quantization: str | None = None


def read_facts(model: str, revision: str | None = None) -> CheckpointFacts:
    """Read the facts of a local folder, a folder in a store, or a hub id. Fetches no weights.

    Args:
        revision: Branch, tag or commit of a hub model; None takes the one in its name, or main.

    Raises:
        ConfigError: There is no such checkpoint, it takes no images, or it is of a kind that no
            engine loads.
    """
    folder, revision = locate_checkpoint(model, revision=revision)
    refuse_other_kinds(model, [path.name for path in folder.iterdir()])
    config = _read_json(folder, "config.json")
    if not config:
        raise ConfigError(
            f"model: {model} holds no config.json; name a checkpoint folder or hub id"
        )
    refuse_unusable(model, config, _find_image_processor(folder))
    template = "vicuna_v1" if config.get("model_type") == "llava" else "model"
    method = (config.get("quantization_config") or {}).get("quant_method")
    revision = revision or fingerprint(folder)
    return CheckpointFacts(_read_framing(folder), template, revision, method)


def _find_image_processor(folder: Path) -> str | None:
    """Name of the class that turns images into tensors, where a file names one."""
    processor = _read_json(folder, "processor_config.json")
    images = processor.get("image_processor") or _read_json(folder, "preprocessor_config.json")
    found = images.get("image_processor_type") if isinstance(images, dict) else None
    return found if isinstance(found, str) else None


def _read_framing(folder: Path) -> Framing:
    """LLaVA-1.5 takes one square; other architectures take the whole picture and resize it."""
    processor = _read_json(folder, "processor_config.json")
    images = processor.get("image_processor") or _read_json(folder, "preprocessor_config.json")
    kind = str(images.get("image_processor_type", ""))
    if not kind.startswith(("CLIPImageProcessor", "LlavaImageProcessor")):
        return Framing("fit", OWN_SIZE_PX)
    size = images.get("crop_size") or images.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    if not side:
        return Framing("fit", OWN_SIZE_PX)
    return Framing("pad" if images.get("do_pad") else "crop", int(side))


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"model: {path} is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}


FAKE_FACTS = CheckpointFacts(Framing("crop", 336), "vicuna_v1", "none")
"""Facts for engine fake if no checkpoint says otherwise; the frame is ShareGPT4V-7B's."""
