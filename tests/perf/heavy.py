"""A LLaVA-1.5 with random weights that is heavy enough to set the pace, as a real one does.

336-pixel images of 576 tokens; about half a second per image and 64 tokens on two cores, so that
what is around an engine is measured beside an engine and not alone.
"""

from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from s4v_core.model.builders import Shape, small_config
from s4v_core.model.checkpoint import export_checkpoint
from s4v_core.model.processor import build_processor
from tests.model.untrained import untrained_tokenizer

IMAGE_PX, PATCH_PX = 336, 14


def build_heavy(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint to `folder`; the same seed gives the same weights."""
    tokenizer = untrained_tokenizer()
    vision, text = Shape(384, 1536, 6, 6), Shape(512, 1408, 6, 8)
    torch.manual_seed(seed)
    config = small_config(tokenizer, IMAGE_PX, PATCH_PX, vision, text)
    model = LlavaForConditionalGeneration(config).eval()
    processor = build_processor(tokenizer, IMAGE_PX, PATCH_PX, pad=False)
    export_checkpoint(model, processor, folder)
    return folder
