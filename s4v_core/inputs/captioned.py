"""Which images have a caption already, so that a job may leave them alone (--only-missing)."""

import contextvars
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.inputs.file_kinds import find_ending, split_name
from s4v_core.storage import StoredFile

TEXT_FILES = "txt"
"""The place of captions that are `.txt` sidecars. Any other place is a field: of `.json` sidecars,
of records, or a column of a table."""

_READS = 32
_SHORT_BYTES = 64
"""A longer text file is not read: it is not blank."""


def has_text(value: Any) -> bool:
    """Whether a field holds a caption."""
    return value is not None and str(value).strip() not in ("", "[]", "{}")


def is_caption(name: str, text: str, place: str) -> bool:
    """Whether the sidecar of this name and text holds a caption at `place`."""
    if place == TEXT_FILES:
        return find_ending(name) == "txt" and has_text(text)
    if find_ending(name) != "json":
        return False
    try:
        record = json.loads(text)
    except ValueError:
        return False
    return isinstance(record, dict) and has_text(record.get(place))


def find_captioned(sidecars: Iterable[StoredFile], place: str) -> set[str]:
    """The keys of the loose sidecars that hold a caption at `place`; reads them where it must."""
    ending = "txt" if place == TEXT_FILES else "json"
    files = [file for file in sidecars if find_ending(file.uri) == ending]
    context = contextvars.copy_context()  # and with it the caller's patience
    with ThreadPoolExecutor(_READS) as pool:
        found = pool.map(lambda file: context.copy().run(_holds_caption, file, place), files)
        pairs = zip(files, found, strict=True)
        return {split_name(file.uri)[0] for file, is_there in pairs if is_there}


def _holds_caption(file: StoredFile, place: str) -> bool:
    if place == TEXT_FILES and file.size > _SHORT_BYTES:
        return True
    try:
        text = storage.read(file.uri).decode("utf-8", "replace")
    except storage.UnreachableError:
        raise
    except (StorageError, FileNotFoundError):
        return False
    return is_caption(file.uri, text, place)
