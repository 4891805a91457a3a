"""Reads a model's sizes from its config; no weights are needed."""

from typing import Any

from transformers import LlavaConfig

from s4v_core.training.arithmetic.flops import Shape
from s4v_core.training.arithmetic.patch_shape import PatchShape


def read_shape(config: LlavaConfig) -> Shape:
    """Read the sizes from a LLaVA-1.5 config."""
    vision = config.vision_config
    return Shape(
        vision_blocks=int(config.vision_feature_layer) % (vision.num_hidden_layers + 1),
        vision_width=vision.hidden_size,
        vision_mlp=vision.intermediate_size,
        vision_places=(vision.image_size // vision.patch_size) ** 2 + 1,
        patch_px=vision.patch_size,
        **_read_language(config.text_config),
    )


def read_patch_shape(config: Any, image_tokens: int) -> PatchShape:
    """Read the sizes from a Qwen2.5-VL config, for images of this many tokens."""
    vision = config.vision_config
    merge = vision.spatial_merge_size
    return PatchShape(
        vision_blocks=vision.depth,
        vision_width=vision.hidden_size,
        vision_mlp=vision.intermediate_size,
        vision_places=image_tokens * merge**2,
        patch_px=vision.patch_size,
        **_read_language(config.text_config),
        merged=merge**2,
        frames=vision.temporal_patch_size,
        window_places=(vision.window_size // vision.patch_size) ** 2,
        whole_blocks=len(vision.fullatt_block_indexes),
    )


def _read_language(text: Any) -> dict[str, int]:
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return {
        "layers": text.num_hidden_layers,
        "width": text.hidden_size,
        "mlp": text.intermediate_size,
        "key_value_width": text.num_key_value_heads * head,
        "vocabulary": text.vocab_size,
    }
