"""Real text-to-image pipelines with random weights, small enough for a CPU, and a script that draws
with them."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPVisionConfig

from s4v_core.demo.painter_model import SCHEDULE, build_text_encoder, build_tokenizer, build_unet
from s4v_core.demo.patch_codec import PatchCodec
from s4v_core.engines.choice import choose_painter
from s4v_core.engines.drawing import PaintConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.flow.spec import Engines
from s4v_core.synthesis.painting import PromptToDraw, paint_prompts

ROOT = Path(__file__).resolve().parents[2]
UNIT = 8
BATCH = 4
POISON = "purple triangle of death"

PAINTING = PaintConfig(width=32, height=32, steps=2, guidance=2.0)


def build_tiny_painter(folder: Path, **parts: Any) -> Path:
    """Save a Stable Diffusion of random weights, the same ones each time.

    Args:
        parts: Parts that take the place of the usual ones.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    usual = {
        "vae": autoencoder,
        "text_encoder": build_text_encoder(tokenizer).eval(),
        "unet": build_unet(PatchCodec(latent_channels=4)).eval(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipeline = StableDiffusionPipeline(
        tokenizer=tokenizer,
        scheduler=EulerDiscreteScheduler(**SCHEDULE, steps_offset=1),
        requires_safety_checker=False,
        **usual | parts,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def build_strict_checker() -> dict[str, Any]:
    """A real safety checker that finds something in every picture."""
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-2.0)  # a cosine is above each of these limits
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    return {"safety_checker": checker, "feature_extractor": processor}


def make_prompts(count: int, poisoned: Iterable[int] = ()) -> list[PromptToDraw]:
    """Prompts, every other one of them for the second picture of the prompt before it."""
    bad = set(poisoned)
    return [
        PromptToDraw(
            f"color/{n:06d}",
            POISON if n in bad else f"small red circle top left, square {n // 2}",
            n % 2,
            "color",
        )
        for n in range(count)
    ]


def start_painting(
    model: Path, output: Path, count: int, *poisoned: int, **variables: str
) -> subprocess.Popen[str]:
    """Start a process that draws `count` prompts with two painters."""
    numbers = [str(count), *map(str, poisoned)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.synthesis.tiny_painter", str(model), str(output), *numbers],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def main(model: str, output: str, count: str, *poisoned: str) -> int:
    settings = EngineSettings(device="cpu", cpus=1, batch_size=BATCH, units_in_flight=2)
    painter = choose_painter(model, PAINTING, settings)
    prompts = make_prompts(int(count), map(int, poisoned))
    outcome = paint_prompts(prompts, output, painter, Engines(2), unit_size=UNIT)
    sys.stdout.write(outcome.as_text())
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
