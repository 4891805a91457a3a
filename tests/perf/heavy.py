"""LLaVA-1.5 models with random weights that are heavy enough to set the pace, as real ones do.

What is around an engine or a training step is measured beside one that takes its time.
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
    """336-pixel images of 576 tokens.

    Args:
        blocks: Of each tower. With four of them vLLM takes 0.20 s for a caption of 64 tokens on one
            core of two that have AVX-512 (Intel Xeon), 0.39 s on one that has not (AMD EPYC).
    """
    vision, text = Shape(256, 1024, blocks, 4), Shape(384, 1056, blocks, 6)
    return _build(folder, 336, vision, text, seed)


def build_trainable(folder: Path, seed: int = 0) -> Path:
    """168-pixel images of 144 tokens; 1.7 s per step of eight samples on one core (AMD EPYC with
    AVX-512), as long as an A100 takes for those eight of the paper's with 7B parameters: of 700
    tokens each, 6 x 7e9 operations for a token, at 45 % of 312 Tflop/s."""
    return _build(folder, 168, Shape(256, 1024, 5, 4), Shape(256, 704, 5, 4), seed)


def _build(folder: Path, image_px: int, vision: Shape, text: Shape, seed: int) -> Path:
    """Writes the checkpoint to `folder`; the same seed gives the same weights."""
    tokenizer = untrained_tokenizer()
    torch.manual_seed(seed)
    config = build_small_config(tokenizer, image_px, PATCH_PX, vision, text)
    model = LlavaForConditionalGeneration(config).eval()
    processor = build_processor(tokenizer, image_px, PATCH_PX, pad=False)
    export_checkpoint(model, processor, folder)
    return folder
