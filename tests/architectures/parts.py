"""Small parts that several architectures share: language models, vision towers, mean colours."""

from typing import Any

from tests.architectures.vocabulary import Words

WIDTH = 128
"""Width of every language model here."""
POSITIONS = 32768

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
HALF = [0.5, 0.5, 0.5]

SCALING = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
"""Settings that stand alike in nearly every preprocessor_config.json."""


def language(kind: str, words: Words, ends: int | list[int], **more: Any) -> dict[str, Any]:
    """Config of a decoder of two layers in the style of Llama."""
    shape = {
        "model_type": kind,
        "vocab_size": words.rows,
        "hidden_size": WIDTH,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": ends,
    }
    bos = words.settings["bos_token"]
    shape["bos_token_id"] = words[bos] if bos else None
    shape["pad_token_id"] = words[words.settings["pad_token"]]
    return shape | more


def tower(kind: str, side: int, patch: int, layers: int = 2, **more: Any) -> dict[str, Any]:
    """Config of a vision tower for pictures of `side` by `side` pixels."""
    shape = {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": patch,
    }
    return shape | more


def square(side: int) -> dict[str, int]:
    """A size as image processors write it."""
    return {"height": side, "width": side}
