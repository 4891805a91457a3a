"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, the last also with the template of its thinking models."""

from pathlib import Path
from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.architectures.parts import CLIP_MEAN, CLIP_STD, HALF, SCALING, WIDTH, language
from tests.architectures.saving import Template, save_checkpoint
from tests.architectures.vocabulary import Words, train_words

_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_END, _PAD = "<|im_end|>", "<|endoftext|>"

_PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
)
_TURNS = (
    "{% for message in messages %}SYSTEM<|im_start|>{{ message['role'] }}\n"
    + _PARTS
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nLEAD{% endif %}"
)
_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
TEXT = _TURNS.replace("SYSTEM", _SYSTEM).replace("LEAD", "")
TEXT_3 = _TURNS.replace("SYSTEM", "").replace("LEAD", "")
TEXT_THINKING = _TURNS.replace("SYSTEM", "").replace("LEAD", "<think>\n")
TEXT_SWITCHED = _TURNS.replace("SYSTEM", "").replace(
    "LEAD",
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}",
)
"""As `TEXT_THINKING`, but `enable_thinking=False` switches it off, as Qwen3.5 does it."""


def build_qwen2_vl(folder: Path) -> None:
    """Qwen/Qwen2-VL-7B-Instruct."""
    words = _train()
    config = Qwen2VLConfig(
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 1, "mlp_ratio": 2,
        },
        text_config=_language("qwen2_vl_text", words, {"mrope_section": [4, 6, 6]}),
        **_ids(words),
    )  # fmt: skip
    images = _images("Qwen2VLImageProcessor", "Qwen2VLProcessor", 14)
    save_checkpoint(
        folder, Qwen2VLForConditionalGeneration(config), words, Template(TEXT, "json"),
        likely=_END, generation=_generation(words, temperature=0.01, top_k=1, top_p=0.001),
        files={"preprocessor_config.json": images},
    )  # fmt: skip


def build_qwen2_5_vl(folder: Path) -> None:
    """Qwen/Qwen2.5-VL-7B-Instruct."""
    _build_qwen2_5_vl(folder, _train(), [_END, _PAD], _END)


def build_second_end(folder: Path) -> None:
    """Ends its answers with the second end token of generation_config.json, never with the first.

    The tokenizer and config.json do not know of that token, and no template writes it.
    """
    _build_qwen2_5_vl(folder, _train(), [_PAD, "<|vision_pad|>"], "<|vision_pad|>")


def build_turn_end(folder: Path) -> None:
    """Ends its answers with the template's end of a turn, which no file calls an end token, as in
    fine-tunes that keep the files of their base model."""
    _build_qwen2_5_vl(folder, train_words(_SPECIAL, eos=_PAD, pad=_PAD), [_PAD], _END)


def _build_qwen2_5_vl(folder: Path, words: Words, ends: list[str], likely_end: str) -> None:
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 1,
            "out_hidden_size": WIDTH, "fullatt_block_indexes": [1],
        },
        text_config=_language("qwen2_5_vl_text", words, {"mrope_section": [4, 6, 6]}),
        **_ids(words),
    )  # fmt: skip
    images = _images("Qwen2VLImageProcessor", "Qwen2_5_VLProcessor", 14)
    generation = _generation(words, repetition_penalty=1.05, temperature=0.000001)
    generation["eos_token_id"] = [words[end] for end in ends]
    save_checkpoint(
        folder, Qwen2_5_VLForConditionalGeneration(config), words,
        Template(TEXT, "json"), likely=likely_end, generation=generation,
        files={"preprocessor_config.json": images},
    )  # fmt: skip


def build_qwen3_vl(folder: Path) -> None:
    """Qwen/Qwen3-VL-8B-Instruct."""
    _build_qwen3_vl(folder, Template(TEXT_3, "json"), _END)


def build_qwen3_vl_thinking(folder: Path) -> None:
    """Qwen/Qwen3-VL-8B-Thinking: its template begins every answer with `<think>`."""
    _build_qwen3_vl(folder, Template(TEXT_THINKING, "jinja"), "</think>")


def build_qwen3_vl_switched(folder: Path) -> None:
    """A thinking template that can be told not to think."""
    _build_qwen3_vl(folder, Template(TEXT_SWITCHED, "tokenizer"), _END)


def _build_qwen3_vl(folder: Path, template: Template, likely: str) -> None:
    words = _train(plain=("<think>", "</think>"))
    rope = {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 1,
            "out_hidden_size": WIDTH, "deepstack_visual_indexes": [0],
            "num_position_embeddings": 2304,
        },
        text_config=_language("qwen3_vl_text", words, rope, head_dim=32),
        **_ids(words),
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": HALF,
        "image_std": HALF,
    }
    videos = images | {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    }
    del videos["image_processor_type"]
    save_checkpoint(
        folder, Qwen3VLForConditionalGeneration(config), words, template, likely=likely,
        generation=_generation(words, temperature=0.7, top_k=20, top_p=0.8),
        files={"preprocessor_config.json": images, "video_preprocessor_config.json": videos},
    )  # fmt: skip


def _train(plain: tuple[str, ...] = ()) -> Words:
    return train_words(_SPECIAL, eos=_END, pad=_PAD, plain=plain)


def _language(kind: str, words: Words, rope: dict[str, Any], **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6} | rope
    text = language(kind, words, words[words.settings["eos_token"]], rope_parameters=rope, **more)
    return text | {"bos_token_id": words[_PAD]}


def _ids(words: Words) -> dict[str, Any]:
    return {
        "image_token_id": words["<|image_pad|>"],
        "video_token_id": words["<|video_pad|>"],
        "vision_start_token_id": words["<|vision_start|>"],
        "vision_end_token_id": words["<|vision_end|>"],
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def _images(kind: str, processor: str, patch: int) -> dict[str, Any]:
    return {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "image_processor_type": kind,
        "processor_class": processor,
    }


def _generation(words: Words, **more: Any) -> dict[str, Any]:
    return {
        "bos_token_id": words[_PAD],
        "pad_token_id": words[_PAD],
        "eos_token_id": [words[_END], words[_PAD]],
        "do_sample": True,
    } | more
