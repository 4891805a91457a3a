import pickle

import pytest

from s4v_core import errors
from s4v_core.captioning.export.run_rows import UnfinishedRunError
from s4v_core.engines.endpoint import WeatherError
from s4v_core.engines.metering import SpendingLimitError
from s4v_core.engines.preflight import UntriedError
from s4v_core.engines.requests import EngineDiedError
from s4v_core.storage import NoCredentialsError, PlaceError, SourceChangedError, UnreachableError

CASES = [
    errors.ConfigError("limit: found -5, allowed 1 or more"),
    errors.InputError("s3://bucket/x", "no such file or folder"),
    errors.ChangedInputError("data.json", "changed since the samples of a run were prepared"),
    errors.SchemaError("plan.parquet", "a, b", "a, c"),
    errors.StorageError("s3://bucket/x", "no answer"),
    errors.EngineError("vllm", "died"),
    EngineDiedError("vllm", "died"),
    UntriedError("model: org/name cannot be read by transformers: no"),
    WeatherError("openai", "HTTP 429", 2.5),
    SpendingLimitError("openai", "the spending limit is reached"),
    errors.TrainingError(7, "the loss is nan"),
    PlaceError("s3://bucket/x", "InvalidObjectState", "archived"),
    NoCredentialsError("s3://bucket/x", "none"),
    SourceChangedError("s3://bucket/x", "changed"),
    UnreachableError("s3://bucket/x", "TimeoutError: "),
    UnfinishedRunError("s3://bucket/run", "3 of 9 images have no row yet"),
]


def _all_children(kind: type) -> set[type]:
    return {kind} | {c for child in kind.__subclasses__() for c in _all_children(child)}


@pytest.mark.parametrize("error", CASES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_with_its_sentence(error: errors.S4VError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_every_error_of_the_project_is_among_the_cases() -> None:
    assert _all_children(errors.S4VError) - {errors.S4VError} == {type(case) for case in CASES}
