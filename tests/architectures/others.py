"""Command A Vision, whose templates are named, and LFM2-VL, whose layers are convolutions."""

from pathlib import Path

from transformers import (
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
)

from tests.architectures.parts import HALF, SCALING, WIDTH, language, square, tower
from tests.architectures.saving import Template, save_checkpoint
from tests.architectures.vocabulary import train_words

COHERE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'CHATBOT' if message['role'] == 'assistant' else message['role'] | upper %}"
    "<|START_OF_TURN_TOKEN|><|{{ role }}_TOKEN|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|IMG_PATCH|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
LFM = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}{{- '<image>' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{{- '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def build_cohere2_vision(folder: Path) -> None:
    """CohereLabs/command-a-vision-07-2025."""
    named = {
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    bos, end = "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"
    special = (
        "<PAD>", "<UNK>", bos, "<EOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", end, "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", *named.values(),
    )  # fmt: skip
    words = train_words(special, eos=end, bos=bos, pad="<PAD>", adds_bos=True, named=named)
    text = language(
        "cohere2", words, words[end], head_dim=32, sliding_window=4096, logit_scale=1.0,
        layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True,
    )  # fmt: skip
    del text["rms_norm_eps"]
    config = Cohere2VisionConfig(
        vision_config=tower("siglip_vision_model", 512, 16, vision_use_head=False),
        text_config=text, image_token_id=words["<|IMG_PATCH|>"], downsample_factor=2,
        alignment_intermediate_size=256, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "Cohere2VisionImageProcessorFast",
        "processor_class": "Cohere2VisionProcessor",
        "size": square(512),
        "patch_size": 16,
        "downsample_factor": 2,
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": 12,
        "image_mean": HALF,
        "image_std": HALF,
    }
    save_checkpoint(
        folder, Cohere2VisionForConditionalGeneration(config), words, Template(COHERE, "named"),
        likely=end,
        generation={"bos_token_id": words[bos], "eos_token_id": words[end],
                    "pad_token_id": words["<PAD>"]},
        files={
            "preprocessor_config.json": images,
            "processor_config.json": {"processor_class": "Cohere2VisionProcessor"},
        },
    )  # fmt: skip


def build_lfm2_vl(folder: Path) -> None:
    """LiquidAI/LFM2-VL-1.6B."""
    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }
    places = tuple(
        f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11)
    )
    bos, end = "<|startoftext|>", "<|im_end|>"
    special = ("<|pad|>", bos, "<|endoftext|>", "<|im_start|>", end, *named.values(), *places)
    words = train_words(special, eos=end, bos=bos, pad="<|pad|>", adds_bos=True, named=named)
    text = language(
        "lfm2", words, words[end], norm_eps=1e-5, layer_types=["conv", "full_attention"],
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    del text["rms_norm_eps"]
    vision = tower("siglip2_vision_model", 256, 16, num_patches=256, vision_use_head=False)
    del vision["image_size"]
    config = Lfm2VlConfig(
        vision_config=vision, text_config=text, image_token_id=words["<image>"],
        projector_hidden_size=WIDTH, downsample_factor=2, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "Lfm2VlImageProcessorFast",
        "processor_class": "Lfm2VlProcessor",
        "resample": 2,
        "size": square(512),
        "downsample_factor": 2,
        "do_image_splitting": True,
        "min_tiles": 2,
        "max_tiles": 10,
        "use_thumbnail": True,
        "min_image_tokens": 64,
        "max_image_tokens": 256,
        "encoder_patch_size": 16,
        "tile_size": 512,
        "max_pixels_tolerance": 2.0,
        "return_row_col_info": True,
        "image_mean": HALF,
        "image_std": HALF,
    }
    save_checkpoint(
        folder, Lfm2VlForConditionalGeneration(config), words, Template(LFM, "jinja"),
        likely=end,
        generation={"bos_token_id": words[bos], "eos_token_id": words[end],
                    "pad_token_id": words["<|pad|>"]},
        files={
            "preprocessor_config.json": images,
            "processor_config.json": {"processor_class": "Lfm2VlProcessor"},
        },
    )  # fmt: skip
