"""The settings of LoRA training. Imports nothing heavy."""

from typing import Self

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.errors import ConfigError

LANGUAGE_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""Linear layers of the language model."""
PROJECTOR_TARGETS = ("linear_1", "linear_2")
"""Linear layers of the projector."""
_TARGETS = (*LANGUAGE_TARGETS, *PROJECTOR_TARGETS)


class Lora(Config):
    """Low-rank adapters that learn in place of the weights."""

    rank: int = Field(0, ge=0)
    """Rank of the adapters; 0 trains the weights themselves."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the adapters: what they add is multiplied by alpha / rank."""
    targets: tuple[str, ...] = LANGUAGE_TARGETS
    """Linear layers that get an adapter: those of the language model, and with linear_1 and
    linear_2 those of the projector."""
    merge: bool = True
    """Export OUTPUT/model, the whole model with the adapters added, beside OUTPUT/adapter."""

    @property
    def scale(self) -> float:
        """The number that the product of an adapter's two matrices is multiplied by."""
        return self.alpha / self.rank

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        unknown = [name for name in self.targets if name not in _TARGETS]
        if unknown or not self.targets:
            raise ConfigError(
                f"lora.targets: found {', '.join(unknown) or 'none'}, allowed {', '.join(_TARGETS)}"
            )
        return self
