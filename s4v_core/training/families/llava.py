"""LLaVA-1.5 and ShareGPT4V: one square of pixels per image, and Vicuna's conversations."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig

from s4v_core import chat
from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.model.names import disk_name_of_memory
from s4v_core.model.normalisation import read_normalisation
from s4v_core.model.parts import count_config_blocks
from s4v_core.model.processor import build_processor
from s4v_core.model.tokenizer import load_tokenizer
from s4v_core.model.trainable import refuse_untrainable
from s4v_core.training.arithmetic.flops import Shape
from s4v_core.training.arithmetic.shapes import read_shape
from s4v_core.training.data.collation import Collator
from s4v_core.training.data.samples import AnyTemplate
from s4v_core.training.stage import TrainStage

_KEPT = ("generation_config.json", "tokenizer.model", "original_config.json")
"""Files of the start model that an export takes over."""


class LlavaFamily:
    """See `Family`."""

    class_name = "LlavaForConditionalGeneration"

    def check_job(self, job: TrainStage) -> None:
        if job.template not in chat.TEMPLATES or job.image_mode == "native":
            raise ConfigError(
                f"template: found {job.template} and image_mode {job.image_mode} for a LLaVA-1.5 "
                "model, allowed vicuna_v1 or plain, and crop or pad"
            )

    def read_config(self, folder: Path) -> LlavaConfig:
        return LlavaConfig.from_pretrained(folder)

    def check_start(self, model: str, config: Any, tokenizer: Any) -> None:
        refuse_untrainable(model, config, tokenizer)

    def count_blocks(self, config: Any) -> tuple[int, int]:
        return config.vision_config.num_hidden_layers, count_config_blocks(config)

    def build_template(self, job: TrainStage, folder: Path, tokenizer: Any) -> AnyTemplate:
        return chat.find_template(job.template)

    def build_collator(
        self, job: TrainStage, folder: Path, config: Any, tokenizer: Any
    ) -> Collator:
        vision = config.vision_config
        return Collator(
            config.image_token_index,
            (vision.image_size // vision.patch_size) ** 2,
            tokenizer.pad_token_id,
            vision.image_size,
        )

    def build_framing(self, job: TrainStage, config: Any) -> Framing:
        assert job.image_mode != "native", "check_job refuses it"
        return Framing(job.image_mode, config.vision_config.image_size)

    def read_shape(self, config: Any, image_tokens: int | None = None) -> Shape:
        return read_shape(config)

    def find_largest_image(self, job: TrainStage, config: Any) -> int:
        return read_shape(config).image_tokens

    def write_settings(self, folder: Path, start: Path, job: TrainStage) -> None:
        config = LlavaConfig.from_pretrained(start)
        config.architectures = [self.class_name]
        config.dtype = config.text_config.dtype = config.vision_config.dtype = torch.bfloat16
        config.save_pretrained(folder)
        vision, pad = config.vision_config, job.image_mode == "pad"
        processor = build_processor(
            load_tokenizer(start), vision.image_size, vision.patch_size, pad
        )
        normalisation = read_normalisation(start)
        processor.image_processor.image_mean = list(normalisation.mean)
        processor.image_processor.image_std = list(normalisation.std)
        processor.save_pretrained(folder)
        for name in _KEPT:
            if (start / name).exists():
                shutil.copy(start / name, folder / name)

    def name_on_disk(self, name: str) -> str:
        return disk_name_of_memory(name)
