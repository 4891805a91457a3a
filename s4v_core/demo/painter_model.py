"""The parts of the demo painter: a Stable Diffusion of four million parameters."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from s4v_core.demo.painter_prompts import list_painter_words
from s4v_core.demo.patch_codec import PatchCodec

SIDE_PX = 64
"""Side of a picture that the painter draws."""

PROMPT_TOKENS = 40
"""Longest prompt, with its first and its last token."""

_WIDTH = 128
_START, _END = "<|startoftext|>", "<|endoftext|>"
_SUFFIX = "</w>"

SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "num_train_timesteps": 1000,
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
"""Arguments of the noise schedule, whose last step is pure noise: so a picture's mean is free."""


def build_tokenizer() -> Any:
    """CLIP's tokenizer, trained on the words of scenes: written merges would split words."""
    cut = Tokenizer(models.BPE(end_of_word_suffix=_SUFFIX, unk_token=_END))
    cut.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        special_tokens=[_START, _END],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789,.-'()"),
        end_of_word_suffix=_SUFFIX,
        show_progress=False,
    )
    cut.train_from_iterator([" ".join(list_painter_words())] * 5, trainer)
    found = json.loads(cut.to_str())["model"]
    merges = [tuple(one if isinstance(one, list) else one.split(" ")) for one in found["merges"]]
    return CLIPTokenizer(
        vocab=found["vocab"], merges=merges, model_max_length=PROMPT_TOKENS, unk_token=_END
    )


def build_text_encoder(tokenizer: Any) -> Any:
    """CLIP's text encoder with two layers and random weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_act="gelu",
    )
    return CLIPTextModel(config)


def build_unet(codec: PatchCodec) -> Any:
    """A U-Net of two levels with random weights."""
    channels = codec.config.latent_channels
    unet = UNet2DConditionModel(
        sample_size=SIDE_PX // codec.config.patch,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(96, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    return unet.to(memory_format=torch.channels_last)


def cut_prompts(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Token ids (prompts, PROMPT_TOKENS), padded as pipelines do."""
    ids: torch.Tensor = tokenizer(
        prompts,
        padding="max_length",
        max_length=PROMPT_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def build_pipeline(codec: PatchCodec, tokenizer: Any, text_encoder: Any, unet: Any) -> Any:
    """The parts as a pipeline that draws."""
    return StableDiffusionPipeline(
        vae=codec,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load_painter(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A saved painter as a pipeline of diffusers."""
    logging.set_verbosity_error()  # it would warn that the codec is no AutoencoderKL
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
