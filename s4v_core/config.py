"""The base class of all configuration: frozen, closed, documented field by field."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from s4v_core.errors import ConfigError


class Config(BaseModel):
    """A complete frozen value. A field's docstring is also its `--help` text.

    Raises:
        ConfigError: a value that is not allowed; one sentence, with what was found.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_a_sentence(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        # pydantic's own text spans lines and ends in a link.
        try:
            return build(values)
        except ValidationError as error:
            raise ConfigError("; ".join(map(_sentence, error.errors()))) from None

    def replace(self, **changes: Any) -> Self:
        """A validated copy; `model_copy(update=...)` would not validate."""
        return type(self).model_validate(dict(self) | changes)


def _sentence(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "configuration"
    return f"{place}: found {error['input']!r}: {error['msg']}"
