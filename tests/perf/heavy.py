"""A LLaVA-1.5 with random weights that is heavy enough to set the pace, as a real one does.

336-pixel images of 576 tokens; about half a second per image and 64 tokens on two cores, so that
what is around an engine is measured beside an engine and not alone.
"""

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration

from s4v_core import chat
from s4v_core.model.builders import llava_config, vocabulary_rows
from s4v_core.model.checkpoint import export_checkpoint
from s4v_core.model.processor import build_processor
from tests.model.untrained import untrained_tokenizer

IMAGE_PX, PATCH_PX = 336, 14


def build_heavy(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint to `folder`; the same seed gives the same weights."""
    tokenizer = untrained_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=384,
    )
    text = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        vocab_size=vocabulary_rows(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    image_id = tokenizer.convert_tokens_to_ids(chat.IMAGE)
    torch.manual_seed(seed)
    config = llava_config(vision, text, image_id, tokenizer.pad_token_id)
    model = LlavaForConditionalGeneration(config).eval()
    processor = build_processor(tokenizer, IMAGE_PX, PATCH_PX, pad=False)
    export_checkpoint(model, processor, folder)
    return folder
