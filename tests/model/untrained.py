"""A LLaVA-1.5 checkpoint of under a million parameters with random weights and its own tokenizer.

It uses the same code as a real model, but its captions are noise. Building it takes a second.
"""

from pathlib import Path

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from s4v_core import chat, prompts
from s4v_core.model.builders import Shape, build_small_config, build_tokenizer
from s4v_core.model.checkpoint_export import export_checkpoint
from s4v_core.model.processor import build_processor

IMAGE_PX = 56
PATCH_PX = 14

_SCENES = (
    "a large red circle in the upper left corner of a plain white background, "
    "a small blue square below the green triangle, the image shows three coloured shapes. "
)


def build_untrained(folder: Path, seed: int = 0) -> None:
    """Write the checkpoint to `folder`; the same seed gives the same weights."""
    tokenizer = untrained_tokenizer()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(untrained_config(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Large enough that the next token depends on the picture and not only on the position.
            if parameter.dim() > 1:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    processor = build_processor(tokenizer, IMAGE_PX, PATCH_PX, pad=False)
    export_checkpoint(model, processor, folder)


def untrained_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Config with 16 image tokens and three vision blocks, of which the last is not used."""
    vision, text = Shape(64, 128, 3, 2), Shape(128, 256, 2, 4)
    return build_small_config(tokenizer, IMAGE_PX, PATCH_PX, vision, text)


def untrained_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows some words of the caption prompt and of scenes."""
    texts = [chat.VICUNA_V1.render(prompts.CAPTION).replace(chat.IMAGE, ""), _SCENES]
    return build_tokenizer(texts * 4, vocabulary=512)
