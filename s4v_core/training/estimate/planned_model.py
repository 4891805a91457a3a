"""Chooses the model that an estimate is made for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4v_core import chat
from s4v_core.checkpoints import locate_checkpoint
from s4v_core.environment import needs_root
from s4v_core.errors import ConfigError, StorageError
from s4v_core.model.builders import (
    build_llava_13b_config,
    build_sharegpt4v_7b_config,
)
from s4v_core.model.tokenizer import load_tokenizer
from s4v_core.training.checks import refuse_missing_block
from s4v_core.training.data.collation import Collator
from s4v_core.training.data.own_template import OwnTemplate
from s4v_core.training.data.samples import AnyTemplate
from s4v_core.training.data.tokens import Encoder
from s4v_core.training.families.choice import find_family
from s4v_core.training.families.family import Family
from s4v_core.training.families.llava import LlavaFamily
from s4v_core.training.new_models import NEW_MODELS
from s4v_core.training.stage import TrainStage


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """The model that an estimate is made for.

    Attributes:
        family: Its family.
        config: Its config.
        description: Where it comes from, in words.
        tokenizer: Its tokenizer; None if the model is not there.
        folder: Folder of its files; None if it has none yet.
    """

    family: Family
    config: Any
    description: str
    tokenizer: Any
    folder: Path | None

    @property
    def has_own_sizes(self) -> bool:
        """Whether images keep their own sizes, and so take different numbers of tokens."""
        return self.family.read_shape(self.config) is None

    def build_template(self, job: TrainStage) -> AnyTemplate:
        if self.folder is None:
            return chat.find_template(job.template)
        return self.family.build_template(job, self.folder, self.tokenizer)

    def build_collator(self, job: TrainStage) -> Collator | None:
        """The collator of the job; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        folder = self.folder or Path()  # a family without files of its own reads none
        return self.family.build_collator(job, folder, self.config, self.tokenizer)

    def build_encoder(self, job: TrainStage) -> Encoder | None:
        """The encoder of the job; None without a tokenizer."""
        if (collator := self.build_collator(job)) is None:
            return None
        return Encoder(self.tokenizer, collator.image_id, collator.image_tokens, job.max_tokens)


def choose_model(job: TrainStage) -> PlannedModel:
    """Choose the job's own model if it is there, or else one of the paper's.

    Raises:
        ConfigError: The job would be refused with this model; or the model is not there, and the
            job is made for one that has its own template.
    """
    found = _find_model(job)
    found.family.check_job(job)
    if found.folder is not None:
        found.family.check_start(job.model, found.config, found.tokenizer)
    refuse_missing_block(job.learning.vision_from, *found.family.count_blocks(found.config))
    return found


def _find_model(job: TrainStage) -> PlannedModel:
    if kind := NEW_MODELS.get(job.model):
        tokenizer = kind.build_tokenizer()
        config = kind.choose_config(tokenizer)
        return PlannedModel(LlavaFamily(), config, kind.name, tokenizer, None)
    folder = _find_folder(job.model)
    if folder is not None:
        family = find_family(folder)
        config = family.read_config(folder)
        return PlannedModel(family, config, job.model, load_tokenizer(folder), folder)
    if job.template == OwnTemplate.name:
        raise ConfigError(
            f"plan: {job.model} is not there, and the job takes the model's own template and "
            "images; needed at least its config, tokenizer and processor: download them, or name "
            "the folder that has them with --model"
        )
    is_large = job.expected.language == "13b"
    name = "LLaVA-1.5-13B" if is_large else "ShareGPT4V-7B"
    config = build_llava_13b_config() if is_large else build_sharegpt4v_7b_config()
    description = f"the shape of {name} ({job.model} is not there yet)"
    return PlannedModel(LlavaFamily(), config, description, None, None)


def _find_folder(model: str) -> Path | None:
    """Folder with the files that describe the model, wherever it lies; None if it is not there."""
    if needs_root(model):
        return None
    try:
        folder, _ = locate_checkpoint(model)
    except (ConfigError, StorageError):
        return None
    return folder if (folder / "config.json").exists() else None
