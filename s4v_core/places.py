"""Places that the environment names: the storage root of jobs, and a node's scratch space."""

import os
from pathlib import Path
from typing import TypeVar

from s4v_core.config import Config
from s4v_core.errors import ConfigError

ROOT = "S4V_ROOT"
SCRATCH = "S4V_SCRATCH"
J = TypeVar("J", bound=Config)


def fill_places(job: J) -> J:
    """`job` with the root filled in.

    Raises:
        ConfigError: A place needs the root and it is not set.
    """
    places = {name: value for name, value in job if isinstance(value, (str, tuple))}
    return job.replace(**{name: _filled(value) for name, value in places.items()})


def scratch_folder(name: str) -> Path:
    """A folder on this node for what can be fetched again: in $S4V_SCRATCH, else the user's cache.

    It need not exist.
    """
    if chosen := os.environ.get(SCRATCH):
        return Path(chosen) / name
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "s4v" / name


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
