"""Pixtral in the layout of transformers, and Mistral Small 3."""

from pathlib import Path
from typing import Any

from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from tests.architectures.parts import CLIP_MEAN, CLIP_STD, SCALING, language, tower
from tests.architectures.saving import Template, save_checkpoint
from tests.architectures.vocabulary import Words, train_words

_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]",
    "<pad>", "[IMG_BREAK]", "[IMG_END]",
)  # fmt: skip
TEXT = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{- '[INST]' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}{%- if part['type'] == 'image' %}{{- '[IMG]' }}"
    "{%- elif part['type'] == 'text' %}{{- part['text'] }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '[/INST]' }}"
    "{%- elif message['role'] == 'system' %}"
    "{{- '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{%- else %}{{- message['content'] + eos_token }}{%- endif %}{%- endfor %}"
)


def build_pixtral(folder: Path) -> None:
    """mistral-community/pixtral-12b: LLaVA's class with Pixtral's own tower."""
    words = _train()
    config = LlavaConfig(
        vision_config=tower("pixtral", 1024, 16, head_dim=32),
        text_config=_language(words), image_token_index=words["[IMG]"], image_seq_length=1,
        vision_feature_layer=-1, vision_feature_select_strategy="full", dtype="float32",
    )  # fmt: skip
    _save(folder, LlavaForConditionalGeneration(config), words, Template(TEXT, "json"), 1024, 16, 1)


def build_mistral3(folder: Path) -> None:
    """mistralai/Mistral-Small-3.1-24B-Instruct-2503."""
    words = _train()
    config = Mistral3Config(
        vision_config=tower("pixtral", 1540, 14, head_dim=32),
        text_config=_language(words), image_token_index=words["[IMG]"],
        vision_feature_layer=-1, spatial_merge_size=2, dtype="float32", tie_word_embeddings=False,
    )  # fmt: skip
    model = Mistral3ForConditionalGeneration(config)
    _save(folder, model, words, Template(TEXT, "jinja"), 1540, 14, 2)


def _train() -> Words:
    return train_words(_SPECIAL, eos="</s>", bos="<s>", pad="<pad>", adds_bos=True)


def _language(words: Words) -> dict[str, Any]:
    return language("mistral", words, words["</s>"], head_dim=32, sliding_window=None)


def _save(
    folder: Path, model: Any, words: Words, template: Template, side: int, patch: int, merge: int
) -> None:
    images = SCALING | {
        "image_processor_type": "PixtralImageProcessor",
        "processor_class": "PixtralProcessor",
        "size": {"longest_edge": side},
        "patch_size": {"height": patch, "width": patch},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }
    processor = {
        "processor_class": "PixtralProcessor",
        "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
        "patch_size": patch,
        "spatial_merge_size": merge,
    }
    save_checkpoint(
        folder, model, words, template, likely="</s>",
        generation={"bos_token_id": words["<s>"], "eos_token_id": words["</s>"]},
        files={"preprocessor_config.json": images, "processor_config.json": processor},
    )  # fmt: skip
