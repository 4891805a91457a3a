"""Writes WebDataset shards that hold each image with its caption: `<key>.jpg`, `.txt`, `.json`."""

import tarfile
from pathlib import Path
from tempfile import NamedTemporaryFile

from s4v_core import storage
from s4v_core.captioning.export.caption_files import add_sidecars
from s4v_core.captioning.export.image_reading import ImageReader, NamedImage
from s4v_core.inputs.shard_size import ShardSize
from s4v_core.inputs.tar import add_member


def write_image_shards(
    reader: ImageReader,
    place: storage.Receipts,
    found: dict[str, storage.StoredFile],
    limit: ShardSize,
) -> tuple[int, int]:
    """Write `00000.tar`, `00001.tar`, ...; what an earlier export left behind them is removed.

    Args:
        found: Files of the earlier export.

    Returns:
        Images and files written.
    """
    images = number = 0
    shard: _Shard | None = None
    for image in reader.read():
        if shard is not None and limit.is_reached(shard.images, shard.size):
            shard.close(place, _name_shard(number))
            shard, number = None, number + 1
        shard = shard or _Shard()
        shard.add(image)
        images += 1
    if shard is not None:
        shard.close(place, _name_shard(number))
        number += 1
    written = {_name_shard(at) for at in range(number)}
    remove_earlier(place, found, written)
    return images, number


def remove_earlier(
    place: storage.Receipts, found: dict[str, storage.StoredFile], written: set[str]
) -> None:
    """Remove files of an earlier export that the new one has not replaced: they would be read as
    part of it. A file that somebody has changed stays."""
    for path, file in found.items():
        if path not in written and place.is_own(path, file):
            storage.remove(file.uri)


def _name_shard(number: int) -> str:
    return f"{number:05d}.tar"


class _Shard:
    """A tar that grows in a temporary file."""

    def __init__(self) -> None:
        self._file = NamedTemporaryFile()  # noqa: SIM115 - it lives as long as the shard grows
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.images = 0

    @property
    def size(self) -> int:
        return self._file.tell()

    def add(self, image: NamedImage) -> None:
        add_member(self._tar, f"{image.name}.{image.ending}", image.content)
        add_sidecars(self._tar, image.name, image.row)
        self.images += 1

    def close(self, place: storage.Receipts, path: str) -> None:
        """Write the shard to its place."""
        self._tar.close()
        self._file.flush()
        place.put(Path(self._file.name), path)
        self._file.close()
