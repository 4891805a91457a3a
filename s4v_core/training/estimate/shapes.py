"""Reads a model's sizes from its config."""

from transformers import LlavaConfig

from s4v_core.training.estimate.flops import Shape


def read_shape(config: LlavaConfig) -> Shape:
    """Read the sizes from a LLaVA-1.5 config; no weights are needed."""
    vision, text = config.vision_config, config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        vision_blocks=int(config.vision_feature_layer) % (vision.num_hidden_layers + 1),
        vision_width=vision.hidden_size,
        vision_mlp=vision.intermediate_size,
        vision_places=(vision.image_size // vision.patch_size) ** 2 + 1,
        patch_px=vision.patch_size,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        mlp=text.intermediate_size,
        key_value_width=text.num_key_value_heads * head,
        vocabulary=text.vocab_size,
    )
