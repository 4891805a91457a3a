"""OUTPUT/forecast.json: what a run was predicted to take, for the run to compare itself with."""

import json
from typing import Any

from s4v_core import storage

_FORECAST_NAME = "forecast.json"
_USED = {"images", "total_s", "index_s"}
"""Entries that a run compares itself with."""


def write_forecast(output: str, found: dict[str, Any]) -> None:
    """Write the forecast again, or for the first time.

    Raises:
        ConfigError: A file of that name lies there, and it is not ours.
    """
    place = storage.Receipts(output, storage.join(output, _FORECAST_NAME))
    if place.is_empty and read_forecast(output):  # of version 0.2, which left no receipts
        place.adopt()
    place.put(json.dumps(found, indent=2, ensure_ascii=False).encode())


def read_forecast(output: str) -> dict[str, Any] | None:
    """The forecast that was made for a run; None if none was, or if the file is something else."""
    uri = storage.join(output, _FORECAST_NAME)
    if storage.stat(uri) is None:
        return None
    try:
        found = json.loads(storage.read(uri))
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= _USED else None
