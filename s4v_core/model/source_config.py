"""Reads the configs of checkpoints to convert, and refuses what LLaVA-1.5 cannot represent."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from s4v_core.errors import InputError

PATCH, CLASS_AND_PATCH = "patch", "cls_patch"
"""LLaVA's names for features without and with the class token."""

NO_FOLDER = (
    "is no folder here; name the folder of a checkpoint (hf download REPO --local-dir FOLDER "
    "fetches one)"
)
"""Problem of a path that is no folder."""

_ARCHITECTURES = ("LlavaLlamaForCausalLM", "Share4VLlamaForCausalLM")
_MODEL_TYPES = ("llava", "llava_llama", "share4v")
_ASPECT_RATIOS = (None, "pad", "square", "crop")

_TEXT_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_VISION_SIZES = (*_TEXT_SIZES, "image_size", "patch_size")

_TEXT_FIELDS = {
    *_TEXT_SIZES,
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "bos_token_id",
    "eos_token_id",
    "attention_bias",
    "mlp_bias",
    "head_dim",
    "initializer_range",
}
"""Settings of a Llama that are taken over. The number of rows and the pad token are ours, and the
head is always stored apart from the embeddings."""

_KNOWN_TOWERS = {
    "clip-vit-large-patch14-336": (1024, 4096, 24, 16, 336, 14),
    "clip-vit-large-patch14": (1024, 4096, 24, 16, 224, 14),
    "ShareGPT4V-7B_Pretrained_vit-large336-l12": (1024, 4096, 24, 16, 336, 14),
    "ShareGPT4V-13B_Pretrained_vit-large336-l12": (1024, 4096, 24, 16, 336, 14),
}
"""Sizes of the towers of published checkpoints, in the order of _VISION_SIZES."""


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises:
        InputError: There is no such folder or file, or it is no JSON object.
    """
    if not folder.is_dir():
        raise InputError(str(folder), NO_FOLDER)
    path = folder / "config.json"
    if not path.exists():
        raise InputError(str(folder), "holds no config.json")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(str(path), f"is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(str(path), "holds no settings by name")
    return found


def refuse_other_originals(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a LLaVA whose architecture is another than LLaVA-1.5's with a Llama.

    Args:
        config: Config in the original layout.

    Raises:
        InputError: The sentence names the setting, what is allowed, and what to do.
    """

    def refuse(name: str, found: object, allowed: str) -> None:
        raise InputError(str(folder), f"config.json: {name}: found {found}, allowed {allowed}")

    for name in config.get("architectures") or ():
        if name not in _ARCHITECTURES:
            wanted = f"{' or '.join(_ARCHITECTURES)}; take a conversion that transformers knows"
            refuse("architectures", name, wanted)
    if (kind := config.get("model_type", "llava")) not in _MODEL_TYPES:
        refuse("model_type", kind, " or ".join(_MODEL_TYPES))
    _refuse_quantized(folder, config)
    projector = config.get("mm_projector_type")
    if projector not in (None, "mlp2x_gelu"):
        refuse("mm_projector_type", projector, "mlp2x_gelu; nothing here loads other projectors")
    if config.get("mm_resampler_type") or config.get("s2"):
        found = config.get("mm_resampler_type") or "s2"
        refuse("mm_resampler_type", found, "none: image features pass unchanged to the projector")
    if config.get("mm_use_im_start_end"):
        refuse("mm_use_im_start_end", True, "false; prompts here have no <im_start> and <im_end>")
    ratio = config.get("image_aspect_ratio")
    if ratio not in _ASPECT_RATIOS or config.get("mm_patch_merge_type", "flat") != "flat":
        found = ratio if ratio not in _ASPECT_RATIOS else config["mm_patch_merge_type"]
        wanted = "pad or square; this is LLaVA-NeXT: take a conversion that transformers knows"
        refuse("image_aspect_ratio or mm_patch_merge_type", found, wanted)
    feature = config.get("mm_vision_select_feature", PATCH)
    if feature not in (PATCH, CLASS_AND_PATCH):
        refuse("mm_vision_select_feature", feature, f"{PATCH} or {CLASS_AND_PATCH}")


def _refuse_quantized(folder: Path, config: Mapping[str, Any]) -> None:
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "unknown")
        raise InputError(
            str(folder), f"holds quantized weights ({method}); convert the model in full precision"
        )


def refuse_other_languages(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a language model that is no plain Llama such as Vicuna.

    Raises:
        InputError: It is of another kind, is a LLaVA already, or is quantized.
    """
    if "mm_vision_tower" in config or config.get("model_type") == "llava":
        raise InputError(
            str(folder), "is a whole LLaVA and no language model alone; convert it as SRC"
        )
    names = config.get("architectures") or ["LlamaForCausalLM"]
    if config.get("model_type", "llama") != "llama" or names != ["LlamaForCausalLM"]:
        raise InputError(
            str(folder),
            f"config.json: found {', '.join(names)} (model_type {config.get('model_type')}), "
            "allowed LlamaForCausalLM, such as lmsys/vicuna-7b-v1.5",
        )
    _refuse_quantized(folder, config)


def build_text_config(folder: Path, config: Mapping[str, Any]) -> LlamaConfig:
    """Build the config of the language model, scaled rotary embeddings included.

    Raises:
        InputError: A size is missing, or settings contradict each other.
    """
    _require(folder, config, _TEXT_SIZES)
    chosen = {k: v for k, v in config.items() if k in _TEXT_FIELDS and v is not None}
    try:
        text = LlamaConfig(**chosen)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(str(folder), f"config.json: {_last_line(error)}") from None
    # Configs of Llama before 2024 call the type by its old name.
    text.rope_parameters.pop("type", None)
    kind = text.rope_parameters.get("rope_type", "default")
    if kind not in ("default", *ROPE_INIT_FUNCTIONS):
        raise InputError(
            str(folder),
            f"config.json: rope_scaling: found {kind}, allowed {', '.join(ROPE_INIT_FUNCTIONS)}",
        )
    return text


def read_tower_config(folder: Path) -> CLIPVisionConfig:
    """Read the config of a vision tower from the folder of a CLIPVisionModel or whole CLIPModel.

    Raises:
        InputError: It is another kind of model, or pictures are normalised in another way.
    """
    config = read_config(folder)
    kind = config.get("model_type", "clip_vision_model")
    if kind not in ("clip", "clip_vision_model"):
        raise InputError(
            str(folder),
            f"config.json: model_type: found {kind}, allowed clip or clip_vision_model, such as "
            "openai/clip-vit-large-patch14-336",
        )
    vision = config.get("vision_config") or config.get("vision_config_dict") or config
    _require(folder, vision, ("hidden_size",))
    known = {field.name for field in fields(CLIPVisionConfig)}
    kept = {k: v for k, v in vision.items() if k in known and k not in ("dtype", "architectures")}
    try:
        found = CLIPVisionConfig(**kept)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise InputError(str(folder), f"config.json: {_last_line(error)}") from None
    _refuse_other_colours(folder)
    return found


def _refuse_other_colours(folder: Path) -> None:
    """Refuse a tower that normalises colours in another way than CLIP's processor."""
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    mean = settings.get("image_mean")
    if mean and any(abs(a - b) > 1e-3 for a, b in zip(mean, _CLIP_MEAN, strict=False)):
        raise InputError(str(path), f"image_mean: found {mean}, allowed CLIP's {_CLIP_MEAN}")


_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def find_known_tower(config: Mapping[str, Any]) -> CLIPVisionConfig | None:
    """Find the config of a published vision tower by the name that an original config gives."""
    name = str(config.get("mm_vision_tower", "")).rstrip("/").rpartition("/")[2]
    sizes = _KNOWN_TOWERS.get(name)
    if sizes is None:
        return None
    return CLIPVisionConfig(**dict(zip(_VISION_SIZES, sizes, strict=True)), projection_dim=768)


def refuse_other_resolution(
    source: Path, config: Mapping[str, Any], tower: Path, vision: CLIPVisionConfig
) -> None:
    """Refuse a tower with the width of the published one that a config names, but other pictures.

    Its tensors would fit a projector that was trained for other features.

    Raises:
        InputError: The sentence names both sizes of pictures.
    """
    known = find_known_tower(config)
    if known is None or known.hidden_size != vision.hidden_size:
        return
    if (known.image_size, known.patch_size) != (vision.image_size, vision.patch_size):
        raise InputError(
            str(tower),
            f"takes pictures of {vision.image_size} pixels in patches of {vision.patch_size}; "
            f"{source} was trained with {config['mm_vision_tower']}, which takes "
            f"{known.image_size} in patches of {known.patch_size}",
        )


def _require(folder: Path, config: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if missing := [name for name in names if config.get(name) is None]:
        raise InputError(str(folder), f"config.json: lacks {', '.join(missing)}")


def _last_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    return text.strip().rpartition("\n")[2].strip()
