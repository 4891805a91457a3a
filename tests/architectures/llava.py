"""The LLaVA family in the layout of llava-hf, and JoyCaption, which shares its class."""

from pathlib import Path
from typing import Any

from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from tests.architectures.parts import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    SCALING,
    language,
    square,
    tower,
)
from tests.architectures.saving import NO_TEMPLATE, Template, save_checkpoint
from tests.architectures.vocabulary import Words, train_words

_IMAGES_FIRST = (
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}IMAGE{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}TEXT{% endfor %}"
)
VICUNA = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    + _IMAGES_FIRST.replace("IMAGE", "{{ '<image>\n' }}").replace(
        "TEXT", "{{ part['text'] + ' ' }}"
    )
    + "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    + _IMAGES_FIRST.replace("IMAGE", "{{ '<image>\n' }}").replace("TEXT", "{{ part['text'] }}")
    + "{{ ' [/INST]' }}{% else %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}"
    "{% endfor %}"
)
QWEN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    + _IMAGES_FIRST.replace("IMAGE", "{{ '<image>' }}").replace("TEXT", "{{ '\n' + part['text'] }}")
    + "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GRANITE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|system|>\nA chat between a user and an assistant.\n' }}{% endif %}"
    "{{ '<|' + message['role'] + '|>\n' }}"
    + _IMAGES_FIRST.replace("IMAGE", "{{ '<image>\n' }}").replace("TEXT", "{{ part['text'] }}")
    + "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA_3_STRINGS = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set told = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set told = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting knowledge date: 30 December 2024\n'"
    " + told + '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if loop.first %}"
    "{{- '<|reserved_special_token_70|><|reserved_special_token_69|><|reserved_special_token_71|>'"
    " + message['content'].replace('<|reserved_special_token_69|>', '').lstrip() }}"
    "{%- else %}{{- message['content'] }}{%- endif %}{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
"""Takes messages whose content is a text, and writes the image's place itself."""

_NEXT_GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_ONEVISION_GRID = [[384 * row, 384 * column] for row in range(1, 7) for column in range(1, 7)]
_GRANITE_GRID = [
    [384 * row, 384 * column]
    for row in range(1, 11)
    for column in range(1, 11)
    if row * column < 11
]


def build_llava_1_5(folder: Path) -> None:
    """llava-hf/llava-1.5-7b-hf."""
    _build_llava_1_5(folder, Template(VICUNA, "json"))


def build_llava_1_5_untold(folder: Path) -> None:
    """A LLaVA-1.5 that brings no template, as older conversions do."""
    _build_llava_1_5(folder, NO_TEMPLATE)


def _build_llava_1_5(folder: Path, template: Template) -> None:
    words = _train_llama()
    config = LlavaConfig(
        vision_config=tower("clip_vision_model", 336, 14, layers=3, projection_dim=64),
        text_config=language("llama", words, words["</s>"]),
        image_token_index=words["<image>"], image_seq_length=576, dtype="float32",
    )  # fmt: skip
    save_checkpoint(
        folder, LlavaForConditionalGeneration(config), words, template, likely="</s>",
        generation=_generation(words, "</s>"),
        files={
            "preprocessor_config.json": _clip_images("CLIPImageProcessor", "LlavaProcessor"),
            "processor_config.json": _processor("LlavaProcessor", 14, "default", 1),
        },
    )  # fmt: skip


def build_llava_next(folder: Path) -> None:
    """llava-hf/llava-v1.6-mistral-7b-hf."""
    words = _train_llama()
    config = LlavaNextConfig(
        vision_config=tower("clip_vision_model", 336, 14, layers=3, projection_dim=64),
        text_config=language("mistral", words, words["</s>"], sliding_window=None, head_dim=32),
        image_token_index=words["<image>"], image_grid_pinpoints=_NEXT_GRID,
        image_seq_length=576, dtype="float32",
    )  # fmt: skip
    images = _clip_images("LlavaNextImageProcessor", "LlavaNextProcessor")
    images |= {"aspect_ratio_setting": "anyres", "image_grid_pinpoints": _NEXT_GRID, "do_pad": True}
    save_checkpoint(
        folder, LlavaNextForConditionalGeneration(config), words, Template(MISTRAL, "json"),
        likely="</s>", generation=_generation(words, "</s>"),
        files={
            "preprocessor_config.json": images,
            "processor_config.json": _processor("LlavaNextProcessor", 14, "default", 1),
        },
    )  # fmt: skip


def build_granite_vision(folder: Path) -> None:
    """ibm-granite/granite-vision-3.3-2b: a LLaVA-NeXT with SigLIP, many tiles, and Granite."""
    special = ("<|end_of_text|>", "<fim_prefix>", "<image>", "<pad>")
    words = train_words(special, eos="<|end_of_text|>", bos="<|end_of_text|>", pad="<pad>")
    scales = {"attention_multiplier": 0.2, "embedding_multiplier": 1.0, "logits_scaling": 1.0}
    config = LlavaNextConfig(
        vision_config=tower("siglip_vision_model", 384, 14, layers=4, vision_use_head=False),
        text_config=language("granite", words, words["<|end_of_text|>"], **scales),
        image_token_index=words["<image>"], image_grid_pinpoints=_GRANITE_GRID,
        image_seq_length=576, vision_feature_layer=[-4, -3, -2, -1],
        vision_feature_select_strategy="full", use_image_newline_parameter=True, dtype="float32",
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
        "image_grid_pinpoints": _GRANITE_GRID,
        "size": square(384),
        "crop_size": square(384),
        "do_center_crop": False,
        "do_pad": True,
        "image_mean": HALF,
        "image_std": HALF,
    }
    save_checkpoint(
        folder, LlavaNextForConditionalGeneration(config), words, Template(GRANITE, "jinja"),
        likely="<|end_of_text|>", generation=_generation(words, "<|end_of_text|>"),
        files={
            "preprocessor_config.json": images,
            "processor_config.json": _processor("LlavaNextProcessor", 14, "full", 0),
        },
    )  # fmt: skip


def build_llava_onevision(folder: Path) -> None:
    """llava-hf/llava-onevision-qwen2-7b-ov-hf."""
    words = _train_qwen(("<image>", "<video>"))
    config = LlavaOnevisionConfig(
        vision_config=tower("siglip_vision_model", 384, 14, vision_use_head=False),
        text_config=language("qwen2", words, words["<|im_end|>"]),
        image_token_index=words["<image>"], video_token_index=words["<video>"],
        image_grid_pinpoints=_ONEVISION_GRID, dtype="float32", tie_word_embeddings=False,
    )  # fmt: skip
    images = _siglip_images("LlavaOnevisionImageProcessor", "LlavaOnevisionProcessor", 384)
    images |= {"image_grid_pinpoints": _ONEVISION_GRID, "do_pad": True}
    videos = _siglip_images("", "LlavaOnevisionProcessor", 384)
    videos["video_processor_type"] = "LlavaOnevisionVideoProcessor"
    del videos["image_processor_type"]
    ends = [words["<|im_end|>"], words["<|endoftext|>"]]
    save_checkpoint(
        folder, LlavaOnevisionForConditionalGeneration(config), words, Template(QWEN, "json"),
        likely="<|im_end|>",
        generation={"eos_token_id": ends, "do_sample": True, "top_k": 20, "top_p": 0.8,
                    "pad_token_id": ends[1], "repetition_penalty": 1.1, "temperature": 0.7},
        files={
            "preprocessor_config.json": images,
            "video_preprocessor_config.json": videos,
            "processor_config.json": {
                "processor_class": "LlavaOnevisionProcessor", "image_token": "<image>",
                "video_token": "<video>", "num_image_tokens": 729,
                "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9",
            },
        },
    )  # fmt: skip


def build_llava_interleave(folder: Path) -> None:
    """llava-hf/llava-interleave-qwen-7b-hf: LLaVA's class with SigLIP and Qwen."""
    words = _train_qwen(("<image>",))
    config = LlavaConfig(
        vision_config=tower("siglip_vision_model", 384, 14, layers=3, vision_use_head=False),
        text_config=language("qwen2", words, words["<|im_end|>"]),
        image_token_index=words["<image>"], image_seq_length=729,
        vision_feature_select_strategy="full", dtype="float32", tie_word_embeddings=False,
    )  # fmt: skip
    save_checkpoint(
        folder, LlavaForConditionalGeneration(config), words, Template(QWEN, "json"),
        likely="<|im_end|>", generation=_generation(words, "<|im_end|>"),
        files={
            "preprocessor_config.json": _siglip_images(
                "SiglipImageProcessor", "LlavaProcessor", 384
            ),
            "processor_config.json": _processor("LlavaProcessor", 14, "full", 0),
        },
    )  # fmt: skip


def build_joycaption(folder: Path) -> None:
    """fancyfeast/llama-joycaption-beta-one-hf-llava: LLaVA's class with SigLIP and Llama 3.1."""
    bos, end, image = "<|begin_of_text|>", "<|eot_id|>", "<|reserved_special_token_69|>"
    special = (
        bos, "<|end_of_text|>", "<|eom_id|>", end, "<|start_header_id|>", "<|end_header_id|>",
        "<|finetune_right_pad_id|>", image, "<|reserved_special_token_70|>",
        "<|reserved_special_token_71|>",
    )  # fmt: skip
    pad = "<|finetune_right_pad_id|>"
    words = train_words(special, eos=end, bos=bos, pad=pad, adds_bos=True)
    ends = [words["<|end_of_text|>"], words["<|eom_id|>"], words[end]]
    config = LlavaConfig(
        vision_config=tower("siglip_vision_model", 384, 14, layers=3, vision_use_head=False),
        text_config=language("llama", words, ends),
        image_token_index=words[image], image_seq_length=729,
        vision_feature_select_strategy="full", dtype="float32",
    )  # fmt: skip
    processor = _processor("LlavaProcessor", 14, "full", 0) | {"image_token": image}
    save_checkpoint(
        folder, LlavaForConditionalGeneration(config), words,
        Template(LLAMA_3_STRINGS, "tokenizer"), likely=end,
        generation={"bos_token_id": words[bos], "eos_token_id": ends, "do_sample": True,
                    "temperature": 0.6, "top_p": 0.9},
        files={
            "preprocessor_config.json": _siglip_images(
                "SiglipImageProcessor", "LlavaProcessor", 384
            ),
            "processor_config.json": processor,
        },
    )  # fmt: skip


def _train_llama() -> Words:
    special = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
    return train_words(special, eos="</s>", bos="<s>", pad="<pad>", adds_bos=True)


def _train_qwen(more: tuple[str, ...]) -> Words:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *more)
    return train_words(special, eos="<|im_end|>", pad="<|endoftext|>")


def _generation(words: Words, end: str) -> dict[str, Any]:
    pad = words.settings["pad_token"]
    return {"eos_token_id": words[end], "pad_token_id": words[pad]}


def _clip_images(kind: str, processor: str) -> dict[str, Any]:
    return SCALING | {
        "image_processor_type": kind,
        "processor_class": processor,
        "size": {"shortest_edge": 336},
        "crop_size": square(336),
        "do_center_crop": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }


def _siglip_images(kind: str, processor: str, side: int) -> dict[str, Any]:
    return SCALING | {
        "image_processor_type": kind,
        "processor_class": processor,
        "size": square(side),
        "image_mean": HALF,
        "image_std": HALF,
    }


def _processor(kind: str, patch: int, strategy: str, more_tokens: int) -> dict[str, Any]:
    return {
        "processor_class": kind,
        "image_token": "<image>",
        "patch_size": patch,
        "vision_feature_select_strategy": strategy,
        "num_additional_image_tokens": more_tokens,
    }
