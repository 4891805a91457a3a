"""One tar of sidecars for each tar of the input, with the same name and the same keys in the same
order, so that both can be read side by side."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from tempfile import NamedTemporaryFile

from s4v_core import storage
from s4v_core.captioning.export.caption_files import write_samples
from s4v_core.captioning.export.run_rows import ImageRow, RunRows
from s4v_core.captioning.export.targets import check_targets
from s4v_core.errors import ConfigError
from s4v_core.inputs.file_kinds import split_name

_TAR_KINDS = ("tar", "targz")


def write_shard_sidecars(rows: RunRows, place: storage.Receipts) -> tuple[int, int]:
    """Write the sidecars; an image without a caption has only its `.json`.

    Returns:
        Rows and files written.

    Raises:
        ConfigError: The input was not tars, two of them have the same name, or a target holds
            anything but an earlier export.
    """
    names = _name_tars(rows)
    check_targets(rows, place, [f"{name}.tar" for name in names.values()])
    count = files = 0
    for uri, of_shard in _group_by_shard(rows):
        name = names[uri]
        samples = ((_find_key(row, name), row) for row in of_shard)
        with NamedTemporaryFile() as file:
            count += write_samples(samples, file)
            file.flush()
            place.put(Path(file.name), f"{name}.tar")
        files += 1
    return count, files


def _find_key(row: ImageRow, name: str) -> str:
    """The key of an image in its tar; a number keeps the images of one key apart."""
    member = row.planned["member"]
    if member is None:  # a plan of an earlier version
        return row.image_id.removeprefix(f"{name}/")
    key = split_name(member)[0]
    _, mark, number = row.image_id.rpartition("#")
    return f"{key}#{number}" if mark and not key.endswith(f"#{number}") else key


def _group_by_shard(rows: RunRows) -> Iterator[tuple[str, Iterable[ImageRow]]]:
    """The rows of each tar, in the order of their images there."""
    if len(rows.head.parts) == 1:
        yield from groupby(rows.read_images(), key=lambda row: str(row.planned["uri"]))
        return
    units: dict[str, list[int]] = {}  # a tar that grew has units in several parts of the plan
    for unit in rows.done:
        units.setdefault(str(rows.read_planned(unit)[0]["uri"]), []).append(unit)
    for uri, numbers in units.items():
        images = [row for _, found in rows.read_units(numbers) for row in found]
        yield uri, sorted(images, key=lambda row: int(row.planned["offset"]))


def _name_tars(rows: RunRows) -> dict[str, str]:
    """Names of the shards by URI."""
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for shard in rows.head.inputs:
        uri, name = shard["uri"], shard["name"]
        if shard["kind"] not in _TAR_KINDS:
            raise ConfigError(f"to: found a folder, but {uri} is no tar; name a file.tar instead")
        if ".." in name.split("/"):
            raise ConfigError(
                f"to: found a folder, but {uri} lies outside; name a file.tar instead"
            )
        if other := owners.get(name.casefold()):
            raise ConfigError(
                f"to: found a folder, but {other} and {uri} would have the same sidecars' name; "
                "name a file.tar instead"
            )
        owners[name.casefold()], names[uri] = uri, name
    return names
