"""Chooses the model that an estimate is made for."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlavaConfig

from s4v_core.errors import ConfigError
from s4v_core.model.builders import (
    build_llava_13b_config,
    build_sharegpt4v_7b_config,
)
from s4v_core.training.new_models import NEW_MODELS
from s4v_core.training.stage import TrainStage


def choose_model(job: TrainStage) -> tuple[LlavaConfig, str, Any]:
    """The config that the estimate is made for, a description of it, and its tokenizer; None if
    the model is not there.

    Raises:
        ConfigError: It is no LLaVA-1.5, whose images all have one size.
    """
    if kind := NEW_MODELS.get(job.model):
        tokenizer = kind.build_tokenizer()
        return kind.choose_config(tokenizer), kind.name, tokenizer
    if (Path(job.model) / "config.json").exists():
        kind = json.loads((Path(job.model) / "config.json").read_text()).get("model_type")
        if kind != "llava":
            raise ConfigError(
                f"plan: found a model of type {kind} in {job.model}, allowed LLaVA-1.5 (llava)"
            )
        config = LlavaConfig.from_pretrained(job.model)
        return config, job.model, AutoTokenizer.from_pretrained(job.model, trust_remote_code=False)
    is_large = job.expected.language == "13b"
    name = "LLaVA-1.5-13B" if is_large else "ShareGPT4V-7B"
    config = build_llava_13b_config() if is_large else build_sharegpt4v_7b_config()
    return config, f"the shape of {name} ({job.model} is not there yet)", None
