"""Checks the configured models: reads facts about their checkpoints and chooses their engines."""

from dataclasses import dataclass
from pathlib import Path

from s4v_core import storage
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.fitness import refuse_unfit_checkpoint
from s4v_core.engines.rendering import OWN_TEMPLATE
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.model.checkpoint_facts import FAKE_FACTS, CheckpointFacts, read_facts
from serve.settings import ModelConfig

_MOST_IMAGES = 8
"""Images in a conversation of a model that does not say how many it takes."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checked model. Small and picklable, because it is sent to every replica.

    Attributes:
        config: The model's settings.
        spec: How its engines start.
        facts: What its checkpoint says about images and conversations.
    """

    config: ModelConfig
    spec: EngineSpec
    facts: CheckpointFacts

    @property
    def samplings(self) -> tuple[SamplingConfig, ...]:
        """Samplings of a caption: the first attempt's, then those after each rejection."""
        return self.config.ladder.samplings(self.config.sampling)


def _check_model(config: ModelConfig) -> Model:
    """Check one model.

    Raises:
        ConfigError: The checkpoint is missing or accepts no images, or its engine is not installed.
    """
    path = str(CAPTIONER) if config.path == "demo" else config.path
    if Path(path).is_dir():
        path = storage.absolute(path)  # replicas may run in another folder
    if config.settings.nodes_per_engine > 1:
        raise ConfigError(
            f"settings.nodes_per_engine: found {config.settings.nodes_per_engine}, allowed 1 here, "
            "because a replica runs on one node; use more of its GPUs with gpus_per_engine"
        )
    facts = FAKE_FACTS if config.engine == "fake" else read_facts(path)
    template = config.template or facts.template
    images = config.images or (_MOST_IMAGES if template == OWN_TEMPLATE else 1)
    spec = choose_engine(config.engine, path, template, config.settings, facts.revision, images)
    refuse_unfit_checkpoint(spec.name, path, facts.quantization)
    return Model(config, spec, facts)


def check_models(configs: tuple[ModelConfig, ...]) -> tuple[Model, ...]:
    """Check all models.

    Raises:
        ConfigError: One of them cannot be served, or two have the same id.
    """
    ids = [config.id for config in configs]
    if duplicates := {name for name in ids if ids.count(name) > 1}:
        raise ConfigError(f"models: found the id {min(duplicates)} twice")
    return tuple(map(_check_model, configs))
