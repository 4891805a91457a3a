"""Files that are derived from a run and lie in its folder, beside whatever a user keeps there."""

import logging
from collections.abc import Sequence

from s4v_core import storage
from s4v_core.errors import ConfigError

log = logging.getLogger(__name__)


def write_derived(
    output: str, names: Sequence[str], data: bytes, legacy_start: bytes | None = None
) -> str | None:
    """Write a derived file again, or for the first time. A file that is not ours stays as it is,
    and the next of `names` is used.

    Args:
        legacy_start: Start of a file of the first name by a version that left no receipts.

    Returns:
        URI of the file that was written; None if all names are taken.
    """
    for number, name in enumerate(names):
        place = storage.Receipts(output, storage.join(output, name))
        if (
            not number
            and legacy_start
            and place.is_empty
            and _starts_with(place.place, legacy_start)
        ):
            place.adopt()
        try:
            place.put(data)
            return place.place
        except ConfigError:
            log.warning("%s was not written by this run and stays as it is", place.place)
    return None


def _starts_with(uri: str, start: bytes) -> bool:
    found = storage.stat(uri)
    if found is None or found.size < len(start):
        return False
    return storage.read_range(uri, 0, len(start)) == start
