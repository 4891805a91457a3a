"""The model of a run and the engine that runs it, from the names that a job gives them."""

from pathlib import Path

from s4v_core import storage
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.fitness import refuse_unfit_checkpoint
from s4v_core.engines.settings import EngineName, EngineSettings, EngineSpec
from s4v_core.images.policy import Framing
from s4v_core.model.checkpoint_facts import FAKE_FACTS, CheckpointFacts, read_facts

_ENDPOINT_PX = 1344
"""Longest side of pictures that are sent to an endpoint, about the most that models there use."""


def read_model_facts(
    engine: EngineName, model: str, settings: EngineSettings, revision: str | None = None
) -> CheckpointFacts:
    """Read the facts of a model, as far as they are known here: those of an endpoint are not.

    Raises:
        ConfigError: There is no such checkpoint, or it takes no images.
    """
    if engine == "fake" and not Path(model).is_dir():
        return FAKE_FACTS
    if engine == "openai":
        return CheckpointFacts(Framing("fit", _ENDPOINT_PX), "model", settings.url or "")
    return read_facts(model, revision)


def choose_model_engine(
    engine: EngineName,
    model: str,
    settings: EngineSettings,
    facts: CheckpointFacts,
    template: str | None = None,
) -> EngineSpec:
    """The engine of a model.

    Args:
        template: Chat template; None takes the one that the facts name.

    Raises:
        ConfigError: The engine is not installed, or does not fit the model.
    """
    # Workers may run in another folder than the driver.
    place = storage.absolute(model) if Path(model).is_dir() else model
    spec = choose_engine(engine, place, template or facts.template, settings, facts.revision)
    refuse_unfit_checkpoint(spec.name, model, facts.quantization)
    return spec
