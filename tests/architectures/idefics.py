"""Idefics3, and SmolVLM, whose processor needs the package num2words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.architectures.parts import HALF, SCALING, language, tower
from tests.architectures.saving import Template, save_checkpoint
from tests.architectures.vocabulary import Words, train_words

_PLACES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
_IMAGE = ("<fake_token_around_image>", "<image>", "<global-img>", *_PLACES)
_END = "<end_of_utterance>"

TEXT = (
    "BOS{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def build_idefics3(folder: Path) -> None:
    """HuggingFaceM4/Idefics3-8B-Llama3: its tokenizer's end is not the end of a turn."""
    special = ("<|begin_of_text|>", "<|end_of_text|>", *_IMAGE, _END)
    words = train_words(
        special, eos="<|end_of_text|>", bos="<|begin_of_text|>", pad="<|end_of_text|>",
        adds_bos=True,
    )  # fmt: skip
    ends = [words["<|end_of_text|>"], words[_END]]
    config = Idefics3Config(**_shape(words, ends[0], side=364, patch=14, factor=2))
    _save(
        folder, Idefics3ForConditionalGeneration(config), words, "Idefics3", 364, 169,
        {"bos_token_id": words["<|begin_of_text|>"], "eos_token_id": ends,
         "pad_token_id": ends[0]},
        {},
    )  # fmt: skip


def build_smolvlm(folder: Path) -> None:
    """HuggingFaceTB/SmolVLM2-500M-Video-Instruct."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_IMAGE, _END)
    words = train_words(special, eos=_END, bos="<|im_start|>", pad="<|im_end|>")
    config = SmolVLMConfig(**_shape(words, words[_END], side=512, patch=16, factor=4))
    videos = {"video_processor_type": "SmolVLMVideoProcessor", "size": {"longest_edge": 2048},
              "max_image_size": {"longest_edge": 512}}  # fmt: skip
    _save(
        folder, SmolVLMForConditionalGeneration(config), words, "SmolVLM", 512, 64,
        {"bos_token_id": words["<|im_start|>"], "eos_token_id": words[_END],
         "pad_token_id": words["<|im_end|>"]},
        {"video_preprocessor_config.json": videos},
    )  # fmt: skip


def _shape(words: Words, end: int, side: int, patch: int, factor: int) -> dict[str, Any]:
    vision = tower("idefics3_vision", side, patch)
    del vision["model_type"]  # each class has a name of its own for the same tower
    return {
        "vision_config": vision,
        "text_config": language("llama", words, end, max_position_embeddings=16384),
        "scale_factor": factor,
        "image_token_id": words["<image>"],
        "pad_token_id": words[words.settings["pad_token"]],
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def _save(
    folder: Path,
    model: Any,
    words: Words,
    name: str,
    side: int,
    tokens: int,
    generation: Mapping[str, Any],
    more: Mapping[str, Any],
) -> None:
    images = SCALING | {
        "image_processor_type": f"{name}ImageProcessor",
        "processor_class": f"{name}Processor",
        "do_image_splitting": True,
        "do_pad": True,
        "size": {"longest_edge": 4 * side},
        "max_image_size": {"longest_edge": side},
        "image_mean": HALF,
        "image_std": HALF,
    }
    text = TEXT.replace("BOS", words.settings["bos_token"])
    save_checkpoint(
        folder, model, words, Template(text, "json"), likely=_END, generation=generation,
        files={
            "preprocessor_config.json": images,
            "processor_config.json": {
                "processor_class": f"{name}Processor", "image_seq_len": tokens,
            },
            **more,
        },
    )  # fmt: skip
