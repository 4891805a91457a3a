"""Facts about a checkpoint that a caption pass needs before it loads anything. Reads only JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4v_core.checkpoints import fingerprint, locate_checkpoint, refuse_other_kinds
from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.model.checkpoint_kinds import has_vision_part, refuse_unusable

_LARGEST_PX, _SMALLEST_PX = 4096**2, 2560**2
"""Most pixels of a picture on its way to a model, and the fewest that this limit may be."""

_SPARE = 4
"""A picture keeps this many times the pixels that the model's processor keeps: twice its width and
height, so that one resize before the processor's own costs no detail."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """Facts about one checkpoint.

    Attributes:
        framing: The picture of an image that its processor gets. For LLaVA-1.5 it is the square
            that the model sees, so that little travels; for others the image itself.
        template: Name in `chat.TEMPLATES`, or "model" for the checkpoint's own chat template.
        revision: Commit of a hub model, else a hash that changes with the files.
        quantization: The method by which its weights are quantized, as its config.json names it;
            None if they are not.
        takes_images: Whether requests may bring images.
    """

    framing: Framing
    template: str
    revision: str
    quantization: str | None = None
    takes_images: bool = True


def read_facts(
    model: str, revision: str | None = None, needs_images: bool = True
) -> CheckpointFacts:
    """Read the facts of a local folder, a folder in a store, or a hub id. Fetches no weights.

    Args:
        revision: Branch, tag or commit of a hub model; None takes the one in its name, or main.
        needs_images: Refuse a model that takes no images.

    Raises:
        ConfigError: There is no such checkpoint, it takes no images though it must, or it is of a
            kind that no engine loads.
    """
    folder, revision = locate_checkpoint(model, revision=revision)
    refuse_other_kinds(model, [path.name for path in folder.iterdir()])
    config = _read_json(folder, "config.json")
    if not config:
        raise ConfigError(
            f"model: {model} holds no config.json; name a checkpoint folder or hub id"
        )
    processor = _read_json(folder, "processor_config.json")
    images = processor.get("image_processor") or _read_json(folder, "preprocessor_config.json")
    kind = images.get("image_processor_type") if isinstance(images, dict) else None
    takes_images = isinstance(kind, str) or has_vision_part(config)
    refuse_unusable(model, config, takes_images or not needs_images)
    template = "vicuna_v1" if _speaks_vicuna(config, folder) else "model"
    method = (config.get("quantization_config") or {}).get("quant_method")
    framing = _choose_framing(config, images if isinstance(images, dict) else {})
    return CheckpointFacts(framing, template, revision or fingerprint(folder), method, takes_images)


def _speaks_vicuna(config: Mapping[str, Any], folder: Path) -> bool:
    """Whether a checkpoint is a ShareGPT4V or LLaVA-1.5: CLIP in front of a Llama that was trained
    on Vicuna's conversations. Others of the same model_type (JoyCaption, Pixtral, LLaVA-Interleave)
    were not; they bring a chat template of their own."""
    if config.get("model_type") != "llava":
        return False
    vision, text = (_read_part(config, name) for name in ("vision_config", "text_config"))
    is_old = vision.get("model_type", "clip_vision_model") == "clip_vision_model"
    is_old = is_old and text.get("model_type", "llama") == "llama"
    template = _find_template_text(folder)
    return is_old and (template is None or "ASSISTANT:" in template)


def _find_template_text(folder: Path) -> str | None:
    """The chat template of a checkpoint, wherever it lies; of several all, as one text."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(errors="replace")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if found := _read_json(folder, name).get("chat_template"):
            return found if isinstance(found, str) else json.dumps(found)
    return None


def _choose_framing(config: Mapping[str, Any], images: Mapping[str, Any]) -> Framing:
    """LLaVA-1.5 takes one square; other architectures take the whole picture and resize it."""
    kind = str(images.get("image_processor_type", ""))
    if config.get("model_type") == "llava" and kind.startswith(
        ("CLIPImageProcessor", "LlavaImageProcessor")
    ):
        size = images.get("crop_size") or images.get("size") or {}
        side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
        if side:
            return Framing("pad" if images.get("do_pad") else "crop", int(side))
    kept_px = count_kept_pixels(images)
    most_px = min(max(_SPARE * kept_px, _SMALLEST_PX), _LARGEST_PX) if kept_px else _LARGEST_PX
    return Framing("area", math.isqrt(most_px))


def count_kept_pixels(images: Mapping[str, Any]) -> int | None:
    """Most pixels that an image processor keeps of a picture; None if its settings do not tell.

    Args:
        images: The image processor's settings, as transformers saves them.
    """
    size = images.get("size")
    size = size if isinstance(size, Mapping) else {"height": size, "width": size} if size else {}
    longest = size.get("longest_edge")
    if most_px := images.get("max_pixels"):
        return int(most_px)
    if longest and longest >= 10_000:  # Qwen-VL and GLM-4V give areas by these names
        return int(longest)
    if grid := images.get("image_grid_pinpoints"):  # LLaVA-NeXT, LLaVA-OneVision
        return max(int(height) * int(width) for height, width in grid)
    side = size.get("height") or size.get("shortest_edge") or longest
    if not isinstance(side, int):
        return None
    tiles = images.get("max_patches") or images.get("max_image_tiles") or 1  # InternVL, Llama
    return int(tiles) * side * int(size.get("width") or longest or side)


def _read_part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


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
