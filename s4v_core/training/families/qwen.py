"""Qwen2.5-VL: images in sizes of their own, and the checkpoint's own chat template."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, Qwen2_5_VLConfig

from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.training.arithmetic.patch_shape import PatchShape
from s4v_core.training.arithmetic.shapes import read_patch_shape
from s4v_core.training.data.own_template import CheckpointRender, OwnTemplate
from s4v_core.training.data.patch_collation import PatchCollator
from s4v_core.training.stage import TrainStage

_NAMES = (
    ("model.visual.", "visual."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)
"""Prefixes of a loaded model's parameters, and those of the published checkpoints' files."""

_SPARE_SIDE = 2
"""A picture is at most so many times longer and wider than the processor keeps it."""

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.md", "config.json")


class QwenFamily:
    """See `Family`."""

    class_name = "Qwen2_5_VLForConditionalGeneration"

    def check_job(self, job: TrainStage) -> None:
        if job.template != OwnTemplate.name or job.image_mode != "native":
            raise ConfigError(
                f"template: found {job.template} and image_mode {job.image_mode} for a Qwen2.5-VL "
                "model, allowed its own template and images in their own size; give --template "
                "model --image-mode native"
            )
        if job.lora.rank and {"linear_1", "linear_2"} & set(job.lora.targets):
            raise ConfigError(
                "lora.targets: found layers of LLaVA's projector, which a Qwen2.5-VL model does "
                "not have; allowed those of the language model"
            )

    def read_config(self, folder: Path) -> Qwen2_5_VLConfig:
        return Qwen2_5_VLConfig.from_pretrained(folder)

    def check_start(self, model: str, config: Any, tokenizer: Any) -> None:
        if config.tie_word_embeddings or config.text_config.tie_word_embeddings:
            raise ConfigError(
                f"model: {model} shares its embeddings with its head, as Qwen2.5-VL-3B does; "
                "allowed are models that have them apart, as the 7B and larger ones"
            )
        if tokenizer.pad_token_id is None:
            raise ConfigError(f"model: {model}: found a tokenizer without pad_token, needed one")

    def count_blocks(self, config: Any) -> tuple[int, int]:
        return config.vision_config.depth, config.vision_config.depth

    def build_template(self, job: TrainStage, folder: Path, tokenizer: Any) -> OwnTemplate:
        token = tokenizer.convert_ids_to_tokens(self.read_config(folder).image_token_id)
        return OwnTemplate(CheckpointRender(str(folder)), tokenizer, token)

    def build_collator(
        self, job: TrainStage, folder: Path, config: Any, tokenizer: Any
    ) -> PatchCollator:
        return PatchCollator(
            image_id=config.image_token_id,
            image_tokens=1,
            pad_id=tokenizer.pad_token_id,
            side_px=1,
            processor=AutoImageProcessor.from_pretrained(folder, max_pixels=job.pixels_max),
            merge=config.vision_config.spatial_merge_size,
            max_tokens=job.max_tokens,
        )

    def build_framing(self, job: TrainStage, config: Any) -> Framing:
        return Framing("area", _SPARE_SIDE * math.isqrt(job.pixels_max))

    def read_shape(self, config: Any, image_tokens: int | None = None) -> PatchShape | None:
        return None if image_tokens is None else read_patch_shape(config, image_tokens)

    def find_largest_image(self, job: TrainStage, config: Any) -> int:
        vision = config.vision_config
        return int(job.pixels_max // (vision.patch_size * vision.spatial_merge_size) ** 2)

    def write_settings(self, folder: Path, start: Path, job: TrainStage) -> None:
        """The start model's files as they are, so that nobody's template or processor changes;
        the processor's limit of pixels is that of the training."""
        skipped = {path for pattern in _WEIGHTS for path in start.glob(pattern)}
        for path in start.iterdir():
            if path.is_file() and path not in skipped:
                shutil.copy(path, folder / path.name)
        config = Qwen2_5_VLConfig.from_pretrained(start)
        config.architectures = [self.class_name]
        config.dtype = torch.bfloat16
        config.save_pretrained(folder)
        images = AutoImageProcessor.from_pretrained(start, max_pixels=job.pixels_max)
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).exists():
                _limit_pixels(folder / name, images.to_dict()["size"])

    def name_on_disk(self, name: str) -> str:
        for memory, disk in _NAMES:
            if name.startswith(memory):
                return disk + name.removeprefix(memory)
        raise KeyError(f"{name}: no parameter of Qwen2.5-VL")


def _limit_pixels(path: Path, size: dict[str, int]) -> None:
    """Write the limits of pixels into a processor's file, in the form that it has."""
    found = json.loads(path.read_text())
    images = found.get("image_processor", found)
    if "max_pixels" in images:
        images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    if "size" in images or "max_pixels" not in images:
        images["size"] = dict(size)
    path.write_text(json.dumps(found, indent=2))
