"""Which CLIP or SigLIP checkpoint scores captions, and on what device."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from s4v_core import storage
from s4v_core.captioning.quality import Quality
from s4v_core.checkpoints import fingerprint, is_uri, locate_checkpoint
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.errors import ConfigError

_KNOWN = ("clip", "metaclip_2", "siglip", "siglip2")
"""Model types with an image and a text encoder whose vectors are compared."""


@dataclass(frozen=True, slots=True)
class ScorerFacts:
    """A scorer's checkpoint, without its weights."""

    model_type: str
    revision: str


def choose_scorer(quality: Quality, engine_device: Literal["gpu", "cpu"]) -> ScorerSpec | None:
    """The scorer of a job; None if it names none.

    Args:
        engine_device: Where the engine of the same worker runs.

    Raises:
        ConfigError: There is no such checkpoint, it is no CLIP or SigLIP, or its device is not the
            worker's.
        UnreachableError: The checkpoint's store does not answer.
    """
    if quality.model is None:
        return None
    if quality.device == "gpu" and engine_device != "gpu":
        raise ConfigError(
            "quality.device: found gpu, but this engine holds no GPU; allowed cpu here, or score "
            "the run afterwards with ray_jobs/score.py --device gpu"
        )
    device = engine_device if quality.device == "auto" else quality.device
    # Workers may run in another folder than the driver.
    is_path = not is_uri(quality.model) and quality.model.startswith(("/", ".", "~"))
    facts = read_scorer_facts(quality.model)
    is_folder = is_path or facts.revision.startswith("sha256:")
    model = storage.absolute(quality.model) if is_folder else quality.model
    return ScorerSpec(model, facts.revision, device, quality.batch_size, quality.prefix)


def read_scorer_facts(model: str) -> ScorerFacts:
    """Read what a checkpoint says of itself. Fetches no weights.

    Raises:
        ConfigError: There is no such checkpoint, or it is no CLIP or SigLIP.
        UnreachableError: Its store does not answer.
    """
    try:
        folder, revision = locate_checkpoint(model)
    except ConfigError as error:
        raise ConfigError(f"quality.{error}") from None
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ConfigError(f"quality.model: {path} is no JSON: {error}") from None
    model_type = str(config.get("model_type"))
    if model_type not in _KNOWN:
        raise ConfigError(
            f"quality.model: {model} has model_type {model_type}, allowed {', '.join(_KNOWN)}"
        )
    return ScorerFacts(model_type, revision or fingerprint(folder))


def identify_scorer(scorer: ScorerSpec | None, model: str | None) -> dict[str, Any] | None:
    """The facts that a score depends on, which identify a run; None without a scorer.

    Args:
        model: The checkpoint as the user names it.
    """
    if scorer is None:
        return None
    return {"model": model, "revision": scorer.revision, "prefix": scorer.prefix}
