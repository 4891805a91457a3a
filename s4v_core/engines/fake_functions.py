"""Answers of engine fake by a function: python:package.module:name, called with each request.

Scripted writers and painters stand in so for models that are not installed, in the real flow.
"""

from collections.abc import Callable
from importlib import import_module

from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import EngineError

_PREFIX = "python:"

AnswerFunction = Callable[[Request, SamplingConfig], Generation]


def is_function(model: str) -> bool:
    """Whether a model's name is that of a function."""
    return model.startswith(_PREFIX)


def load_function(model: str) -> AnswerFunction:
    """The function that a model's name stands for.

    Raises:
        EngineError: There is none.
    """
    module, _, name = model.removeprefix(_PREFIX).partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EngineError("fake", f"{model} is no function: {error}") from None
    if not callable(found):
        raise EngineError("fake", f"{model} is no function")
    answer: AnswerFunction = found
    return answer
