"""Pipelines of today's families with random weights: SDXL, Stable Diffusion 3 and Flux."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from s4v_core.demo.painter_model import SCHEDULE, build_tokenizer

_WIDTH = 32
_WORDS = ("small", "large", "red", "blue", "circle", "square", "number", "0", "1", "2", ",")


def _build_clip(kind: Callable[[CLIPTextConfig], Any]) -> Any:
    config = CLIPTextConfig(
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(build_tokenizer()),
    )
    return kind(config).eval()


def _build_t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = T5Tokenizer(vocab=special + [(f"▁{word}", -2.0) for word in _WORDS], extra_ids=0)
    config = T5Config(
        d_model=_WIDTH,
        d_kv=8,
        d_ff=_WIDTH,
        num_layers=2,
        num_heads=4,
        vocab_size=len(tokenizer),
    )
    return tokenizer, T5EncoderModel(config).eval()


def _build_autoencoder(channels: int, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=_WIDTH,
        **more,
    ).eval()


def build_sdxl() -> StableDiffusionXLPipeline:
    """Two CLIP text encoders and a U-Net that is told the sizes of the picture."""
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=_WIDTH // 2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + _WIDTH,
        cross_attention_dim=2 * _WIDTH,
    )
    return StableDiffusionXLPipeline(
        vae=_build_autoencoder(4),
        text_encoder=_build_clip(CLIPTextModel),
        text_encoder_2=_build_clip(CLIPTextModelWithProjection),
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, steps_offset=1),
        add_watermarker=False,
    )


def build_sd3() -> StableDiffusion3Pipeline:
    """Two CLIP text encoders, T5, and a transformer that draws by flow matching."""
    transformer = SD3Transformer2DModel(
        sample_size=_WIDTH // 2,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=_WIDTH,
        joint_attention_dim=_WIDTH,
        pooled_projection_dim=2 * _WIDTH,
    )
    tokenizer, encoder = _build_t5()
    return StableDiffusion3Pipeline(
        vae=_build_autoencoder(4, shift_factor=0.06, scaling_factor=1.53),
        text_encoder=_build_clip(CLIPTextModelWithProjection),
        text_encoder_2=_build_clip(CLIPTextModelWithProjection),
        text_encoder_3=encoder,
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(),
        tokenizer_3=tokenizer,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def build_flux() -> FluxPipeline:
    """CLIP, T5, and a transformer that takes the guidance as an input and no negative prompt."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_WIDTH,
        pooled_projection_dim=_WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    tokenizer, encoder = _build_t5()
    return FluxPipeline(
        vae=_build_autoencoder(4, shift_factor=0.06, scaling_factor=1.53),
        text_encoder=_build_clip(CLIPTextModel),
        text_encoder_2=encoder,
        tokenizer=build_tokenizer(),
        tokenizer_2=tokenizer,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "sdxl": build_sdxl,
    "sd3": build_sd3,
    "flux": build_flux,
}


def save_painter(family: str, folder: Path) -> Path:
    """Save a pipeline of a family with random weights, the same ones each time."""
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder, safe_serialization=True)
    return folder
