"""Builds LLaVA-1.5 models with random weights: ShareGPT4V-7B's shape, and the demo's small one.

Trained weights come from training or conversion.
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
from s4v_core.model.checkpoint_export import export_checkpoint
from s4v_core.model.processor import build_processor

_SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", chat.IMAGE, "<pad>")
_ROWS_MULTIPLE = 64

DEMO_VOCABULARY = 504
DEMO_BLOCKS = 4
"""Number of vision blocks of the demo's model, the last one unused."""
_DEMO_IMAGE_PX = 112
_DEMO_PATCH_PX = 16

WORLD_VOCABULARY = 640
WORLD_BLOCKS = 5
"""Number of vision blocks of the models of the richer world, the last one unused."""
_WORLD_IMAGE_PX = 56
_WORLD_PATCH_PX = 8


def build_llava_13b_config() -> LlavaConfig:
    """Config of LLaVA-1.5-13B (Figure 2): as ShareGPT4V-7B, with Vicuna-13B-v1.5."""
    config = build_sharegpt4v_7b_config()
    text = config.text_config.to_dict() | {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "head_dim": 128,
    }
    return build_llava_config(config.vision_config, LlamaConfig(**text), 32000, 32001)


def build_sharegpt4v_7b_config() -> LlavaConfig:
    """Config of ShareGPT4V-7B: CLIP ViT-L/14-336, a two-layer projector with GELU, and
    Vicuna-7B-v1.5 (Sec. 4.1).

    `<image>` and `<pad>` follow Llama's 32,000 tokens; the rows are rounded up to 32,064.
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
    return build_llava_config(vision, text, image_id=32000, pad_id=32001)


class Shape(NamedTuple):
    """Size of a transformer.

    Attributes:
        width: Width of the residual stream.
        inner: Width of the MLP's inner layer.
        blocks: Number of blocks.
        heads: Attention heads per block.
    """

    width: int
    inner: int
    blocks: int
    heads: int


def build_demo_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Config of a small LLaVA-1.5 with 49 image tokens and four vision blocks, the last unused."""
    shape = Shape(128, 256, DEMO_BLOCKS, 4)
    return build_small_config(tokenizer, _DEMO_IMAGE_PX, _DEMO_PATCH_PX, vision=shape, text=shape)


def build_small_config(
    tokenizer: PreTrainedTokenizerFast, image_px: int, patch_px: int, vision: Shape, text: Shape
) -> LlavaConfig:
    """Config of a LLaVA-1.5 with these shapes, 1,024 positions and the tokenizer's vocabulary."""
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
        vocab_size=count_vocabulary_rows(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    image_id = tokenizer.convert_tokens_to_ids(chat.IMAGE)
    return build_llava_config(tower, language, image_id, tokenizer.pad_token_id)


def count_vocabulary_rows(tokenizer: Any) -> int:
    """Rows of the embedding matrices: rounded up to a multiple of 64, which kernels prefer."""
    return round_up_rows(len(tokenizer))


def round_up_rows(rows: int) -> int:
    """The next multiple of 64."""
    return -(-rows // _ROWS_MULTIPLE) * _ROWS_MULTIPLE


def build_llava_config(
    vision: CLIPVisionConfig,
    text: LlamaConfig,
    image_id: int,
    pad_id: int,
    feature_layer: int = -2,
    dtype: str = "float32",
    keeps_class_token: bool = False,
) -> LlavaConfig:
    """Join the two parts as LLaVA-1.5 does: features of the last block but one, no class token."""
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + keeps_class_token,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="full" if keeps_class_token else "default",
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        pad_token_id=pad_id,
        tie_word_embeddings=False,
        dtype=dtype,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    return config


def build_world_config(tokenizer: PreTrainedTokenizerFast, is_large: bool) -> LlavaConfig:
    """Config of a small LLaVA-1.5 with 49 image tokens and five vision blocks, the last unused, so
    that a quarter of those in use is one block.

    Args:
        is_large: Whether the language model is the larger of two; the tower is always the same.
    """
    text = Shape(192, 384, 6, 6) if is_large else Shape(128, 256, 4, 4)
    vision = Shape(128, 256, WORLD_BLOCKS, 4)
    return build_small_config(tokenizer, _WORLD_IMAGE_PX, _WORLD_PATCH_PX, vision, text)


def build_new_model(
    folder: Path, seed: int, config: LlavaConfig, tokenizer: Any, repeats_words: bool = False
) -> None:
    """Write a small model with random weights; the same seed gives the same files.

    Args:
        repeats_words: Whether the head starts as the embedding, so that a word is the likeliest
            word after itself. A small model then soon learns to answer in the words of a text.
    """
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    _initialise_weights(model)
    if repeats_words:
        model.lm_head.weight.data.copy_(model.get_input_embeddings().weight.data)
    vision = config.vision_config
    processor = build_processor(tokenizer, vision.image_size, vision.patch_size, pad=True)
    export_checkpoint(model, processor, folder)


def build_tokenizer(
    texts: Iterable[str], vocabulary: int, phrases: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer: any text can be encoded, and words of `texts` are one
    token each.

    Args:
        texts: Texts that the tokenizer is trained on.
        vocabulary: Size of the vocabulary without `phrases`.
        phrases: Texts that become one token as a whole. A tiny model would otherwise spend half
            of its time on a system text that never changes.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL_TOKENS),
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
def _initialise_weights(model: LlavaForConditionalGeneration) -> None:
    """Draw matrices with a scale set by their input width, and smaller ones before a residual sum.

    transformers' scale of 0.02 is made for widths of thousands; a width of 128 learns little from
    it.
    """
    depth = 2 * model.config.text_config.num_hidden_layers
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
        if "position_embedding" in name:
            parameter.normal_(std=0.5)
        elif name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
            parameter.normal_(std=(fan_in * depth) ** -0.5)
        elif fan_in and "lm_head" not in name:
            parameter.normal_(std=fan_in**-0.5)
