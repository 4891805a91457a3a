"""A LLaVA-1.5 checkpoint of under a million parameters with random weights and its own tokenizer.

For tests, and for the demo as long as no trained captioner ships: every part of the path is real,
the captions are noise. Built in a second from a seed.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from s4v_core import chat, prompts
from s4v_core.model.checkpoint import export_checkpoint
from s4v_core.model.processor import build_processor

IMAGE_PX = 56
PATCH_PX = 14
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", chat.IMAGE, "<pad>")

_SCENES = (
    "a large red circle in the upper left corner of a plain white background, "
    "a small blue square below the green triangle, the image shows three coloured shapes. "
)


def build_untrained(folder: Path, seed: int = 0) -> None:
    """Write the checkpoint to `folder`; the same seed gives the same weights."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(untrained_config(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Wide enough that the picture, and not the position alone, decides the next token.
            if parameter.dim() > 1:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    processor = build_processor(tokenizer, IMAGE_PX, PATCH_PX, pad=False)
    export_checkpoint(model, processor, folder)


def untrained_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """LLaVA-1.5 in small: 16 image tokens, two vision layers of which the last is not used."""
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=64,
    )
    text = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        vocab_size=-(-len(tokenizer) // 64) * 64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(chat.IMAGE),
        image_seq_length=(IMAGE_PX // PATCH_PX) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        dtype="float32",
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over this project's own texts: takes any text, knows some words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [chat.VICUNA_V1.render(prompts.CAPTION).replace(chat.IMAGE, ""), _SCENES]
    tokenizer.train_from_iterator(texts * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[chat.IMAGE],
        clean_up_tokenization_spaces=False,
    )
