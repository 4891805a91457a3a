"""Checks where an export would write, before anything is written."""

import re
from collections.abc import Iterable

from s4v_core import storage
from s4v_core.captioning.export.run_rows import RunRows
from s4v_core.errors import ConfigError
from s4v_core.runs.status import STATS_NAME

_OWN_NAMES = (STATS_NAME, "run.json", "forecast.json")
_PLAN_NAMES = re.compile(r"plan(-\d+)?\.parquet")
"""Files of a run's folder that a run writes by these names."""


def check_targets(rows: RunRows, place: storage.Receipts, paths: Iterable[str]) -> None:
    """Refuse targets that hold anything but an earlier export of the same run.

    Args:
        paths: Files below the place; "" is the place itself.

    Raises:
        ConfigError: A target is an input of the run, belongs to the run itself, or exists and was
            not written by it.
    """
    inputs = {storage.resolve(shard["uri"]): shard["uri"] for shard in rows.head.inputs}
    for path in paths:
        uri = place.uri(path)
        if storage.resolve(uri) in inputs:
            raise ConfigError(f"to: {uri} is an input of this run; choose another name")
        _refuse_own_names(rows.output, uri)
        if storage.is_folder(uri):
            raise ConfigError(f"to: {uri} is a folder; choose another name")
        file = storage.stat(uri)
        if file is not None and not place.is_own(path, file):
            raise storage.refuse_overwriting(uri)


def check_folder(rows: RunRows, place: storage.Receipts) -> dict[str, storage.StoredFile]:
    """Refuse a folder that holds anything but an earlier export of the same run.

    Returns:
        Files of the earlier export, by path below the folder.

    Raises:
        ConfigError: The folder holds something else, or belongs to the run itself.
    """
    _refuse_own_names(rows.output, place.uri("x"))
    if storage.stat(place.place) is not None:
        raise ConfigError(f"to: {place.place} is a file; choose another folder")
    if not storage.is_folder(place.place):
        return {}
    start = storage.absolute(place.place).rstrip("/") + "/"
    found = {file.uri.removeprefix(start): file for file in storage.list_files(place.place)}
    for path, file in found.items():
        if not place.is_named(path, file):
            raise ConfigError(
                f"to: {place.place} holds {path}, which was not written by this run; choose an "
                "empty folder"
            )
    return found


def _refuse_own_names(output: str, uri: str) -> None:
    root, target = storage.resolve(output), storage.resolve(uri)
    inside = target.removeprefix(f"{root}/").split("/", 1)[0] if target != root else ""
    if target.startswith(f"{root}/") and (inside in _OWN_NAMES or _PLAN_NAMES.fullmatch(inside)):
        raise ConfigError(f"to: {uri} is a file of the run itself; choose another name")
    if target.startswith((storage.join(root, "captions") + "/", storage.join(root, ".receipts/"))):
        raise ConfigError(
            f"to: {uri} lies among the rows of the run itself, where readers would count it; "
            "choose another folder"
        )
