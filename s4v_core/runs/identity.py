"""The settings that identify a run: an output folder belongs to one set of them."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from s4v_core.config import Config
from s4v_core.errors import ConfigError


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
        if was != _leave_out_newer(was, now):
            raise ConfigError(
                f"output: {output} was made with {name} {was!r}, found {now!r}; "
                "choose another --output, or the settings of that run"
            )


def _leave_out_newer(was: Any, now: Any) -> Any:
    """`now` without the settings of a later version that are left off, at any depth."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return now
    return {
        name: _leave_out_newer(was.get(name), value)
        for name, value in now.items()
        if name in was or value
    }
