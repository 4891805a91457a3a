"""Sizes of a checkpoint's language model that decide how much an engine can hold."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of one language model.

    Attributes:
        model_type: Name of the whole architecture in transformers.
        longest: Tokens that it has positions for.
        kv_values: Numbers that its key-value cache holds per token.
    """

    model_type: str
    longest: int
    kv_values: int


def read_model_shape(model: str) -> ModelShape:
    """Read the sizes from a checkpoint's config.

    Args:
        model: A folder or hub id.
    """
    from transformers import AutoConfig

    whole = AutoConfig.from_pretrained(model, trust_remote_code=False)
    config = whole.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_values = 2 * config.num_hidden_layers * heads * width
    return ModelShape(whole.model_type, int(config.max_position_embeddings), kv_values)
