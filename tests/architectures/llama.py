"""Llama 4, a mixture of experts whose template counts tiles."""

from pathlib import Path

from transformers import Llama4Config, Llama4ForConditionalGeneration

from tests.architectures.parts import HALF, SCALING, WIDTH, language, square
from tests.architectures.saving import Template, save_checkpoint
from tests.architectures.vocabulary import train_words

TEXT = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|header_start|>' + message['role'] + '<|header_end|>\n\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}{%- if part['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif part['type'] == 'text' %}{{- part['text'] | trim }}{%- endif %}{%- endfor %}"
    "{%- endif %}{{- '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|header_start|>assistant<|header_end|>\n\n' }}{%- endif %}"
)


def build_llama4(folder: Path) -> None:
    """meta-llama/Llama-4-Scout-17B-16E-Instruct."""
    bos, end, pad = "<|begin_of_text|>", "<|eot|>", "<|finetune_right_pad|>"
    special = (
        bos, "<|end_of_text|>", "<|eom|>", end, "<|header_start|>", "<|header_end|>", pad,
        "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
        "<|image|>", "<|patch|>",
    )  # fmt: skip
    words = train_words(special, eos=end, bos=bos, pad=pad, adds_bos=True)
    ends = [words["<|end_of_text|>"], words["<|eom|>"], words[end]]
    text = language(
        "llama4_text", words, ends, head_dim=32, intermediate_size_mlp=256, num_local_experts=2,
        no_rope_layer_interval=2, attention_chunk_size=8192, use_qk_norm=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    config = Llama4Config(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 256, "vision_output_dim": WIDTH, "image_size": 336,
            "patch_size": 14, "pixel_shuffle_ratio": 0.5, "projector_input_dim": WIDTH,
            "projector_output_dim": WIDTH,
        },
        text_config=text, boi_token_index=words["<|image_start|>"],
        eoi_token_index=words["<|image_end|>"], image_token_index=words["<|patch|>"],
        tie_word_embeddings=False, dtype="float32",
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "Llama4ImageProcessorFast",
        "processor_class": "Llama4Processor",
        "size": square(336),
        "max_patches": 16,
        "resize_to_max_canvas": False,
        "image_mean": HALF,
        "image_std": HALF,
    }
    save_checkpoint(
        folder, Llama4ForConditionalGeneration(config), words, Template(TEXT, "tokenizer"),
        likely=end,
        generation={"bos_token_id": words[bos], "eos_token_id": ends, "do_sample": True,
                    "temperature": 0.6, "top_p": 0.9},
        files={
            "preprocessor_config.json": images,
            "processor_config.json": {
                "processor_class": "Llama4Processor", "patch_size": 14,
                "fake_image_token": "<|image|>", "image_token": "<|image|>",
            },
        },
    )  # fmt: skip
