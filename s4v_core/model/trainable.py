"""Refuses checkpoints of LLaVA's architecture that training does not compute as they are."""

from typing import Any

from transformers import LlavaConfig

from s4v_core.errors import ConfigError


def refuse_untrainable(model: str, config: LlavaConfig, tokenizer: Any) -> None:
    """Refuse a start model with parts other than LLaVA-1.5's.

    Raises:
        ConfigError: The sentence names the setting of config.json, and what is allowed.
    """
    vision, text = config.vision_config, config.text_config
    blocks = vision.num_hidden_layers
    found: dict[str, tuple[object, bool, str]] = {
        "vision_config.model_type": (
            vision.model_type,
            vision.model_type == "clip_vision_model",
            "clip_vision_model",
        ),
        "text_config.model_type": (text.model_type, text.model_type == "llama", "llama"),
        "vision_feature_select_strategy": (
            config.vision_feature_select_strategy,
            config.vision_feature_select_strategy == "default",
            "default: features without the class token",
        ),
        "vision_feature_layer": (
            config.vision_feature_layer,
            isinstance(config.vision_feature_layer, int)
            and -blocks - 1 <= config.vision_feature_layer <= blocks,
            f"one number from {-blocks - 1} to {blocks}",
        ),
        "tie_word_embeddings": (
            bool(config.tie_word_embeddings),
            not config.tie_word_embeddings,
            "false: convert.py writes a tied head as one of its own",
        ),
        "pad_token": (
            tokenizer.pad_token,
            tokenizer.pad_token_id is not None,
            "a token, which convert.py adds",
        ),
    }
    for name, (value, is_allowed, allowed) in found.items():
        if not is_allowed:
            raise ConfigError(f"model: {model}: {name}: found {value}, allowed {allowed}")
