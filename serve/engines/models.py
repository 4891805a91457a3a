"""Checks the configured models: reads facts about their checkpoints and chooses their engines."""

from dataclasses import dataclass, replace
from pathlib import Path

from s4v_core import storage
from s4v_core.checkpoints import locate_adapter
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.fitness import refuse_unfit_checkpoint
from s4v_core.engines.rendering import OWN_TEMPLATE
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import CPU_SEQUENCES, EngineSpec
from s4v_core.environment import fill_in_root, has_root, needs_root
from s4v_core.errors import ConfigError
from s4v_core.model.checkpoint_facts import FAKE_FACTS, CheckpointFacts, read_facts
from serve.settings import AdapterConfig, ModelConfig, Scaling

_MOST_IMAGES = 8
"""Images in a conversation of a model that does not say how many it takes."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checked model. Small and picklable, because it is sent to every replica.

    Attributes:
        config: The model's settings.
        spec: How its engines start.
        facts: What its checkpoint says about images and conversations.
        adapter: Name of the LoRA adapter that its requests go through; empty for the model itself.
    """

    config: ModelConfig
    spec: EngineSpec
    facts: CheckpointFacts
    adapter: str = ""

    @property
    def scaling(self) -> Scaling:
        """Autoscaling of its engines, with the numbers that follow from the engine's limit."""
        sequences = self.config.settings.max_num_seqs
        is_on_cpu = self.spec.name == "vllm" and self.spec.device == "cpu"
        return self.config.scaling.fill_in(
            min(sequences, CPU_SEQUENCES) if is_on_cpu else sequences
        )

    def list_served(self) -> "tuple[Model, ...]":
        """List the models that its engines serve: itself, and one for each adapter."""
        adapters = [
            replace(
                self, config=self.config.replace(id=adapter.id, adapters=()), adapter=adapter.id
            )
            for adapter in self.config.adapters
        ]
        return self, *adapters

    @property
    def samplings(self) -> tuple[SamplingConfig, ...]:
        """Samplings of a caption: the first attempt's, then those after each rejection."""
        return self.config.ladder.samplings(self.config.sampling)


def _check_model(config: ModelConfig) -> Model:
    """Check one model.

    Raises:
        ConfigError: The checkpoint is missing or of a kind that no engine loads, or its engine is
            not installed.
    """
    config = _fill_in_places(config)
    path = str(CAPTIONER) if config.path == "demo" else config.path
    if Path(path).is_dir():
        path = storage.absolute(path)  # replicas may run in another folder
    if config.settings.nodes_per_engine > 1:
        raise ConfigError(
            f"settings.nodes_per_engine: found {config.settings.nodes_per_engine}, allowed 1 here, "
            "because a replica runs on one node; use more of its GPUs with gpus_per_engine"
        )
    facts = FAKE_FACTS if config.engine == "fake" else read_facts(path, needs_images=False)
    template = config.template or facts.template
    images = config.images or (_MOST_IMAGES if template == OWN_TEMPLATE else 1)
    spec = choose_engine(config.engine, path, template, config.settings, facts.revision, images)
    refuse_unfit_checkpoint(spec.name, path, facts.quantization)
    if config.adapters and spec.name != "vllm":
        raise ConfigError(f"adapters: found some for {config.id}, which only engine vllm serves")
    # Each turn of a chat shows the engine the same image again: it is worth keeping.
    shares_images = spec.name == "vllm"
    adapters = tuple(map(_locate_adapter, config.adapters))
    return Model(config, replace(spec, shares_images=shares_images, adapters=adapters), facts)


def _fill_in_places(config: ModelConfig) -> ModelConfig:
    places = (config.path, *(adapter.path for adapter in config.adapters))
    if needs_root(places) and not has_root():
        raise ConfigError(
            f"models: the path of {config.id} lies below $S4V_ROOT, which is not set here; set it "
            "on every node to the folder or bucket of your runs, or write the whole path"
        )
    adapters = tuple(map(fill_in_root, config.adapters))
    return config.replace(path=fill_in_root(config).path, adapters=adapters)


def _locate_adapter(config: AdapterConfig) -> tuple[str, str, str]:
    place = storage.absolute(config.path) if Path(config.path).is_dir() else config.path
    return config.id, place, locate_adapter(place)[1]


def check_models(configs: tuple[ModelConfig, ...]) -> tuple[Model, ...]:
    """Check all models.

    Raises:
        ConfigError: One of them cannot be served, or two have the same id.
    """
    ids = [config.id for config in configs]
    ids += [adapter.id for config in configs for adapter in config.adapters]
    if duplicates := {name for name in ids if ids.count(name) > 1}:
        raise ConfigError(f"models: found the id {min(duplicates)} twice")
    return tuple(map(_check_model, configs))
