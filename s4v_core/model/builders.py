"""LLaVA-1.5 models from nothing: the shape of ShareGPT4V-7B, and the demo's of a few million.

Weights are random; a model that knows something comes from training or conversion.
"""

from collections.abc import Iterable
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

from s4v_core import chat
from s4v_core.model.checkpoint import export_checkpoint
from s4v_core.model.processor import build_processor

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", chat.IMAGE, "<pad>")
ROWS_MULTIPLE = 64

DEMO_VOCABULARY = 512
DEMO_IMAGE_PX = 96
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


def demo_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """LLaVA-1.5 in small: 36 image tokens, four vision blocks of which the last is not used."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=DEMO_IMAGE_PX,
        patch_size=DEMO_PATCH_PX,
        projection_dim=128,
    )
    text = LlamaConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        vocab_size=-(-len(tokenizer) // ROWS_MULTIPLE) * ROWS_MULTIPLE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    image_id = tokenizer.convert_tokens_to_ids(chat.IMAGE)
    return llava_config(vision, text, image_id, tokenizer.pad_token_id)


def llava_config(
    vision: CLIPVisionConfig, text: LlamaConfig, image_id: int, pad_id: int
) -> LlavaConfig:
    """The two parts as LLaVA-1.5 joins them: features of the last block but one, no class token."""
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        pad_token_id=pad_id,
        tie_word_embeddings=False,
        dtype="float32",
    )


def build_demo(folder: Path, seed: int, texts: Iterable[str]) -> None:
    """Write the demo model with random weights; the same seed gives the same files.

    Args:
        texts: What its tokenizer is made of.
    """
    tokenizer = build_tokenizer(texts, DEMO_VOCABULARY)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(demo_config(tokenizer)).eval()
    _initialise(model)
    processor = build_processor(tokenizer, DEMO_IMAGE_PX, DEMO_PATCH_PX, pad=True)
    export_checkpoint(model, processor, folder)


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: takes any text, and knows the words of `texts` as one token each."""
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


def _initialise(model: LlavaForConditionalGeneration) -> None:
    """Matrices by the width of what they take in: a width of 128 wants more than 0.02."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name and "class" not in name:
                fan_in = parameter[0].numel()
                parameter.normal_(std=fan_in**-0.5)
