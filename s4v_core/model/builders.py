"""LLaVA-1.5 models from nothing: the shape of ShareGPT4V-7B, and the demo's of a few million.

Weights are random; a model that knows something comes from training or conversion.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from s4v_core import chat
from s4v_core.model.checkpoint import export_checkpoint
from s4v_core.model.processor import build_processor

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", chat.IMAGE, "<pad>")
ROWS_MULTIPLE = 64

DEMO_VOCABULARY = 504
DEMO_IMAGE_PX = 112
DEMO_PATCH_PX = 16


def sharegpt4v_7b_config() -> LlavaConfig:
    """CLIP ViT-L/14-336, a two-layer projector with GELU, Vicuna-7B-v1.5 (Sec. 4.1).

    With `<image>` and `<pad>` behind Llama's 32,000 tokens, rounded up to 32,064 rows.
    """
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        vocab_size=32064,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=32001,
        tie_word_embeddings=False,
    )
    return llava_config(vision, text, image_id=32000, pad_id=32001)


class Shape(NamedTuple):
    """Of a transformer: width of its stream and of its inner layers, blocks, attention heads."""

    width: int
    inner: int
    blocks: int
    heads: int


def demo_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """LLaVA-1.5 in small: 49 image tokens, four vision blocks of which the last is not used."""
    shape = Shape(128, 256, 4, 4)
    return small_config(tokenizer, DEMO_IMAGE_PX, DEMO_PATCH_PX, vision=shape, text=shape)


def small_config(
    tokenizer: PreTrainedTokenizerFast, image_px: int, patch_px: int, vision: Shape, text: Shape
) -> LlavaConfig:
    """LLaVA-1.5 of these shapes around a tokenizer of its own; 1,024 positions."""
    tower = CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.inner,
        num_hidden_layers=vision.blocks,
        num_attention_heads=vision.heads,
        image_size=image_px,
        patch_size=patch_px,
        projection_dim=vision.width,
    )
    language = LlamaConfig(
        hidden_size=text.width,
        intermediate_size=text.inner,
        num_hidden_layers=text.blocks,
        num_attention_heads=text.heads,
        num_key_value_heads=text.heads,
        max_position_embeddings=1024,
        vocab_size=vocabulary_rows(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    image_id = tokenizer.convert_tokens_to_ids(chat.IMAGE)
    return llava_config(tower, language, image_id, tokenizer.pad_token_id)


def vocabulary_rows(tokenizer: Any) -> int:
    """Rows of a vocabulary's matrices: kernels like multiples of 64."""
    return -(-len(tokenizer) // ROWS_MULTIPLE) * ROWS_MULTIPLE


def llava_config(
    vision: CLIPVisionConfig,
    text: LlamaConfig,
    image_id: int,
    pad_id: int,
    feature_layer: int = -2,
    dtype: str = "float32",
) -> LlavaConfig:
    """The two parts as LLaVA-1.5 joins them: features of the last block but one, no class token."""
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        pad_token_id=pad_id,
        tie_word_embeddings=False,
        dtype=dtype,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    return config


def build_demo(folder: Path, seed: int, texts: Iterable[str], phrases: Sequence[str]) -> None:
    """Write the demo model with random weights; the same seed gives the same files.

    Args:
        texts, phrases: What its tokenizer is made of.
    """
    tokenizer = build_tokenizer(texts, DEMO_VOCABULARY, phrases)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(demo_config(tokenizer)).eval()
    _initialise(model)
    processor = build_processor(tokenizer, DEMO_IMAGE_PX, DEMO_PATCH_PX, pad=True)
    export_checkpoint(model, processor, folder)


def build_tokenizer(
    texts: Iterable[str], vocabulary: int, phrases: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: takes any text, and knows the words of `texts` as one token each.

    Args:
        phrases: Texts that are one token as a whole: half of a tiny model's time would go into
            a system text that never changes.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
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


@torch.no_grad()
def _initialise(model: LlavaForConditionalGeneration) -> None:
    """Matrices by the width of what they take in, those in front of a sum smaller: a width of 128
    learns little from transformers' 0.02, made for thousands."""
    depth = 2 * model.config.text_config.num_hidden_layers
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
        if "position_embedding" in name:
            parameter.normal_(std=0.5)
        elif name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
            parameter.normal_(std=(fan_in * depth) ** -0.5)
        elif fan_in and "lm_head" not in name:
            parameter.normal_(std=fan_in**-0.5)
