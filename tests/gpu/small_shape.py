"""A small model with all parts of the large one, for tables that a CPU can make, too."""

from transformers import LlavaConfig

from s4v_core.model.builders import build_sharegpt4v_7b_config


def small_config() -> LlavaConfig:
    """A shape of about nine million parameters with all parts of the large one."""
    config = build_sharegpt4v_7b_config()
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 128, 344, 4
    text.num_attention_heads = text.num_key_value_heads = 2
    text.head_dim = 64
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers = 64, 256, 4
    vision.num_attention_heads, vision.image_size = 2, 112
    return config
