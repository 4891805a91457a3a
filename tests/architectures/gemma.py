"""Gemma 3, and PaliGemma, whose repositories hold no chat template."""

from pathlib import Path

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from tests.architectures.parts import HALF, SCALING, WIDTH, language, square, tower
from tests.architectures.saving import NO_TEMPLATE, Template, save_checkpoint
from tests.architectures.vocabulary import train_words

_LINES = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
"""Runs of line ends are tokens of their own, and vLLM looks for them."""

TEXT = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


def build_gemma3(folder: Path) -> None:
    """google/gemma-3-4b-it."""
    special = (
        "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
        "<end_of_image>", "<image_soft_token>",
    )  # fmt: skip
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    words = train_words(
        special, eos="<eos>", bos="<bos>", pad="<pad>", adds_bos=True, plain=_LINES, named=named
    )
    ends = [words["<eos>"], words["<end_of_turn>"]]
    text = language(
        "gemma3_text", words, words["<eos>"], head_dim=32, query_pre_attn_scalar=32,
        sliding_window=1024, layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    )  # fmt: skip
    config = Gemma3Config(
        vision_config=tower("siglip_vision_model", 896, 14, vision_use_head=False),
        text_config=text, mm_tokens_per_image=256, boi_token_index=words["<start_of_image>"],
        eoi_token_index=words["<end_of_image>"], image_token_index=words["<image_soft_token>"],
        eos_token_id=ends, dtype="float32",
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "size": square(896),
        "image_seq_length": 256,
        "do_pan_and_scan": None,
        "image_mean": HALF,
        "image_std": HALF,
    }
    save_checkpoint(
        folder, Gemma3ForConditionalGeneration(config), words, Template(TEXT, "json"),
        likely="<end_of_turn>",
        generation={"bos_token_id": words["<bos>"], "eos_token_id": ends, "do_sample": True,
                    "pad_token_id": words["<pad>"], "top_k": 64, "top_p": 0.95},
        files={
            "preprocessor_config.json": images,
            "processor_config.json": {
                "processor_class": "Gemma3Processor", "image_seq_length": 256,
            },
        },
    )  # fmt: skip


def build_paligemma(folder: Path) -> None:
    """google/paligemma2-3b-mix-224."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")
    words = train_words(
        special, eos="<eos>", bos="<bos>", pad="<pad>", adds_bos=True, plain=_LINES,
        named={"image_token": "<image>"},
    )  # fmt: skip
    text = language(
        "gemma2", words, words["<eos>"], head_dim=32, query_pre_attn_scalar=32,
        num_image_tokens=256, tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    config = PaliGemmaConfig(
        vision_config=tower(
            "siglip_vision_model", 224, 14, projection_dim=WIDTH, vision_use_head=False
        ),
        text_config=text, projection_dim=WIDTH, hidden_size=WIDTH,
        image_token_index=words["<image>"], bos_token_id=words["<bos>"],
        eos_token_id=words["<eos>"], pad_token_id=words["<pad>"], dtype="float32",
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "PaliGemmaProcessor",
        "size": square(224),
        "image_seq_length": 256,
        "image_mean": HALF,
        "image_std": HALF,
    }
    save_checkpoint(
        folder, PaliGemmaForConditionalGeneration(config), words, NO_TEMPLATE, likely="<eos>",
        generation={"bos_token_id": words["<bos>"], "eos_token_id": words["<eos>"],
                    "pad_token_id": words["<pad>"]},
        files={"preprocessor_config.json": images},
    )  # fmt: skip
