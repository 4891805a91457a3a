"""`$S4V_ROOT` in the places of a job -> the storage root of this machine or cluster."""

import os
from typing import TypeVar

from s4v_core.config import Config
from s4v_core.errors import ConfigError

ROOT = "S4V_ROOT"
J = TypeVar("J", bound=Config)


def fill_places(job: J) -> J:
    """`job` with the root filled in.

    Raises:
        ConfigError: A place needs the root and it is not set.
    """
    places = {name: value for name, value in job if isinstance(value, (str, tuple))}
    return job.replace(**{name: _filled(value) for name, value in places.items()})


def _filled(value: str | tuple[object, ...]) -> object:
    if isinstance(value, tuple):
        return tuple(_filled(v) if isinstance(v, str) else v for v in value)
    if f"${ROOT}" not in value:
        return value
    root = os.environ.get(ROOT)
    if not root:
        raise ConfigError(
            f"{ROOT} is not set; set it to the folder or bucket of your runs, or pass --input, "
            "--output and --model"
        )
    return value.replace(f"${ROOT}", root.rstrip("/"))
