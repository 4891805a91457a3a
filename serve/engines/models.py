"""A model of the configuration, looked at: its checkpoint's facts and how its engines start."""

from dataclasses import dataclass
from pathlib import Path

from s4v_core import storage
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.requests import EngineSpec, SamplingConfig
from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.model.checkpoint_facts import CheckpointFacts, read_facts
from serve.settings import ModelConfig

FAKE_FACTS = CheckpointFacts(Framing("crop", 336), "vicuna_v1", "none")


@dataclass(frozen=True, slots=True)
class Model:
    """Small and picklable; it travels to every replica.

    Attributes:
        samplings: Of captions: the first attempt's, and those after a rejection.
    """

    config: ModelConfig
    spec: EngineSpec
    facts: CheckpointFacts

    @property
    def samplings(self) -> tuple[SamplingConfig, ...]:
        return self.config.ladder.samplings(self.config.sampling)


def look_at(config: ModelConfig) -> Model:
    """Raises ConfigError: The checkpoint is not there or takes no images, or its engine is not
    installed."""
    path = str(CAPTIONER) if config.path == "demo" else config.path
    if Path(path).is_dir():
        path = storage.absolute(path)  # replicas may stand in another folder
    facts = FAKE_FACTS if config.engine == "fake" else read_facts(path)
    template = config.template or facts.template
    spec = choose_engine(config.engine, path, template, config.settings, facts.revision)
    return Model(config, spec, facts)


def look_at_all(configs: tuple[ModelConfig, ...]) -> tuple[Model, ...]:
    """Raises ConfigError: Of one of them, or two have the same id."""
    ids = [config.id for config in configs]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ConfigError(f"models: found the id {min(twice)} twice")
    return tuple(map(look_at, configs))
