"""The base class of all configuration: immutable, without unknown fields, documented by field."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from s4v_core.errors import ConfigError


class Config(BaseModel):
    """An immutable, validated set of settings. A field's docstring is also its `--help` text.

    Raises:
        ConfigError: A value is not allowed. The error is one sentence that names the found value.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_a_sentence(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        # pydantic's own text spans several lines and ends in a link.
        try:
            return build(values)
        except ValidationError as error:
            raise ConfigError("; ".join(map(_describe, error.errors()))) from None

    def replace(self, **changes: Any) -> Self:
        """Return a changed and validated copy; `model_copy(update=...)` would not validate it."""
        return type(self).model_validate(dict(self) | changes)


def _describe(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "configuration"
    return f"{place}: found {error['input']!r}: {error['msg']}"
