"""LLaVA-1.5 models with random weights, large enough that they limit the speed as real ones do.

Benchmarks use them to measure the overhead around an engine or a training step.
"""

from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from s4v_core.model.builders import Shape, build_small_config
from s4v_core.model.checkpoint_export import export_checkpoint
from s4v_core.model.processor import build_processor
from tests.model.untrained import untrained_tokenizer

PATCH_PX = 14


def build_heavy(folder: Path, blocks: int = 4, seed: int = 0) -> Path:
    """Write a model for 336-pixel images of 576 tokens.

    Args:
        blocks: Blocks of each tower. With four, vLLM takes 0.20 s for a caption of 64 tokens on one
            core with AVX-512 (Intel Xeon), and 0.39 s on one without (AMD EPYC).
    """
    vision, text = Shape(256, 1024, blocks, 4), Shape(384, 1056, blocks, 6)
    return _build(folder, 336, vision, text, seed)


def build_trainable(folder: Path, seed: int = 0) -> Path:
    """Write a model for 168-pixel images of 144 tokens.

    A step of eight samples takes 1.7 s on one core (AMD EPYC with AVX-512). An A100 takes as long
    for eight of the paper's samples with 7B parameters: 700 tokens each, 6 x 7e9 operations per
    token, at 45 % of 312 Tflop/s.
    """
    return _build(folder, 168, Shape(256, 1024, 5, 4), Shape(256, 704, 5, 4), seed)


def _build(folder: Path, image_px: int, vision: Shape, text: Shape, seed: int) -> Path:
    """Write the checkpoint to `folder`; the same seed gives the same weights."""
    tokenizer = untrained_tokenizer()
    torch.manual_seed(seed)
    config = build_small_config(tokenizer, image_px, PATCH_PX, vision, text)
    model = LlavaForConditionalGeneration(config).eval()
    processor = build_processor(tokenizer, image_px, PATCH_PX, pad=False)
    export_checkpoint(model, processor, folder)
    return folder
