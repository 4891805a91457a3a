"""The settings of evaluations beside training. Imports nothing heavy."""

from typing import Self

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.errors import ConfigError


class Evaluating(Config):
    """Evaluation of checkpoints on benchmarks, beside training."""

    benchmarks: str = ""
    """Benchmarks on which checkpoints are evaluated, separated by commas, as eval.py names them; by
    default none."""
    data: str = ""
    """Folder of the benchmarks' files, as eval.py takes it."""
    every_steps: int = Field(500, ge=1)
    """Steps between two evaluated checkpoints, which are saved for that; the last one is evaluated,
    too."""
    limit: int | None = Field(None, ge=1)
    """Ask only the first N questions of each benchmark."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens. Default: what the original script of each benchmark allowed."""
    wait_min: float = Field(60.0, ge=0)
    """Minutes that evaluations may still take after the last step."""

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.benchmarks and not self.data:
            raise ConfigError(
                f"evaluation.data: found none, needed the folder of {self.benchmarks}; give "
                "--evaluation.data URI"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether any checkpoint is evaluated."""
        return bool(self.benchmarks)
