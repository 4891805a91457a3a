"""OUTPUT/forecast.json: what a run was predicted to take, for the run to compare itself with."""

import json
from typing import Any

from s4v_core import storage

_FORECAST_NAME = "forecast.json"


def write_forecast(output: str, found: dict[str, Any]) -> None:
    storage.replace_json(storage.join(output, _FORECAST_NAME), found)


def read_forecast(output: str) -> dict[str, Any] | None:
    """The forecast that was made for a run, if one was."""
    uri = storage.join(output, _FORECAST_NAME)
    if storage.stat(uri) is None:
        return None
    found: dict[str, Any] = json.loads(storage.read(uri))
    return found
