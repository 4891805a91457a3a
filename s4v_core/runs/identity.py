"""The settings that identify a run: an output folder belongs to one set of them."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from s4v_core.config import Config
from s4v_core.errors import ConfigError

_LONGEST_VALUES = 400
"""Characters of two values that differ, up to which a message shows all of both."""


def identify_job(job: Config, free: Collection[str], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that identify a run: every field of its job that is not named as free to change.

    A field that is added later therefore identifies a run until somebody decides otherwise.

    Args:
        free: Fields that change no row: places, sizes, speed, what is printed.
        resolved: What the job's fields came to (a checkpoint's revision, the texts of a prompt
            file); replaces fields of the same names.
    """
    unknown = set(free) - set(type(job).model_fields)
    assert not unknown, f"free names fields that the job has not: {sorted(unknown)}"
    return job.model_dump(exclude=set(free)) | dict(resolved)


def refuse_other_settings(output: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Compare the settings of a run with those that it was begun with.

    Raises:
        ConfigError: One of the `new` ones differs; the sentence names it.
    """
    for name in new:
        if name not in old and not new[name]:
            continue  # a setting of a later version, left off
        # Through JSON, as the stored ones went.
        was, now = old.get(name), json.loads(json.dumps(new[name]))
        if was != _forget_later(was, now):
            place, was, now = _find_difference(name, was, _forget_later(was, now))
            raise ConfigError(
                f"output: {output} was made with {place} {was!r}, found {now!r}; "
                "choose another --output, or the settings of that run"
            )


def _find_difference(name: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """The place and the values of a difference: of long values, the first part that differs."""
    if len(repr(was)) + len(repr(now)) <= _LONGEST_VALUES or was == now:
        return name, was, now
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = [(str(at), *pair) for at, pair in enumerate(zip(was, now, strict=True))]
    elif isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        pairs = [(key, was[key], now[key]) for key in was]
    else:
        return name, was, now
    place, old, new = next(pair for pair in pairs if pair[1] != pair[2])
    return _find_difference(f"{name}.{place}", old, new)


def _forget_later(was: Any, now: Any) -> Any:
    """Settings without those that a later version added inside them and that are left off."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return now
    return {
        name: _forget_later(was.get(name), value)
        for name, value in now.items()
        if name in was or value
    }
