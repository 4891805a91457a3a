"""The machine that a process runs on: the storage root of jobs ($S4V_ROOT), a scratch folder, and
versions of packages."""

import os
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from s4v_core.config import Config
from s4v_core.errors import ConfigError

_ROOT = "S4V_ROOT"
_SCRATCH = "S4V_SCRATCH"
_JobT = TypeVar("_JobT", bound=Config)


def fill_in_root(job: _JobT) -> _JobT:
    """Return `job` with `$S4V_ROOT` replaced in all of its text fields.

    Raises:
        ConfigError: A field needs the root and it is not set.
    """
    texts = {name: value for name, value in job if isinstance(value, (str, tuple))}
    needing = [name for name, value in texts.items() if needs_root(value)]
    if needing and not has_root():
        flags = [f"--{name.replace('_', '-')}" for name in needing]
        raise ConfigError(
            f"{_ROOT} is not set; set it to the folder or bucket of your runs, or pass "
            f"{' and '.join(flags)}, which need it"
        )
    return job.replace(**{name: _replace_root(value) for name, value in texts.items()})


def find_scratch_folder(name: str) -> Path:
    """A folder on this node for files that can be fetched again; it may not exist yet.

    It lies in $S4V_SCRATCH, or else in the user's cache.
    """
    if chosen := os.environ.get(_SCRATCH):
        return Path(chosen) / name
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "s4v" / name


def find_version(package: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def needs_root(value: object) -> bool:
    """Whether a setting, or one of several values of it, lies below $S4V_ROOT."""
    if isinstance(value, tuple):
        return any(needs_root(one) for one in value)
    return isinstance(value, str) and f"${_ROOT}" in value


def has_root() -> bool:
    """Whether $S4V_ROOT is set."""
    return bool(os.environ.get(_ROOT))


def _replace_root(value: str | tuple[object, ...]) -> object:
    if isinstance(value, tuple):
        return tuple(_replace_root(v) if isinstance(v, str) else v for v in value)
    return value.replace(f"${_ROOT}", os.environ.get(_ROOT, "").rstrip("/"))
