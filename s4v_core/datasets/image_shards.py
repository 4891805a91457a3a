"""Writes a data set with its images as WebDataset shards: `<number>.jpg`, `.txt`, `.json`.

The number is that of the record, the text its first answer, and the JSON the record as it is
written. Images are copied as they are stored; those behind the first are `<number>.1.jpg`, ...
"""

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from s4v_core import storage
from s4v_core.datasets.conversations import Unusable, parse_record
from s4v_core.datasets.image_index import ImageIndex, Place
from s4v_core.datasets.image_search import normalise_name
from s4v_core.datasets.record_faults import read_fields
from s4v_core.datasets.record_files import read_record_file
from s4v_core.errors import ConfigError
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.json_stream import Span
from s4v_core.inputs.shard_size import ShardSize
from s4v_core.inputs.tar import add_member

_BATCH = 128
"""Records whose images are read at the same time."""


@dataclass(slots=True)
class ShardsReport:
    """The result of an export: samples and files written, and records left out by reason."""

    to: str
    samples: int = 0
    files: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def as_text(self) -> str:
        """Lines for people."""
        text = f"{self.samples:,} samples written to {self.to} in {self.files:,} shards"
        if self.left_out:
            found = ", ".join(f"{name} {count:,}" for name, count in self.left_out.most_common())
            text += f"\n{self.left_out.total():,} records left out: {found}"
        return text


@dataclass(frozen=True, slots=True)
class _Sample:
    """A record with its images, by the endings of their files."""

    number: int
    span: Span
    caption: str
    images: list[tuple[str, bytes]]


def write_record_shards(
    data: str,
    images: Sequence[str],
    to: str,
    shard_size: str = "1GB",
    match_file_names: bool = False,
) -> ShardsReport:
    """Write the records that have images, with them, to `to/00000.tar` and so on.

    Args:
        images: Inputs with the images.
        shard_size: `1GB`, `500MB`, or a number of samples.
        match_file_names: Whether an image may be found by its file name alone.

    Raises:
        ConfigError: The folder has files already, or no shard has such a size.
        InputError: The data or the images cannot be read at all.
    """
    limit = ShardSize.parse(shard_size)
    if storage.is_folder(to) and storage.list_files(to):
        raise ConfigError(f"to: {to} has files, and nothing is written over; name a new folder")
    report = ShardsReport(to)
    index = ImageIndex(tuple(images), match_file_names)
    shard = _Shard()
    for sample in _read_samples(data, index, report):
        if limit.is_reached(shard.samples, shard.size):
            shard.close(to, report)
            shard = _Shard()
        shard.add(sample)
    shard.close(to, report)
    return report


def _read_samples(data: str, index: ImageIndex, report: ShardsReport) -> Iterator[_Sample]:
    spans = enumerate(read_record_file(data, keeps_bad=True), 1)
    found = ((number, span) for number, span in spans if span.text)
    while batch := list(islice(found, _BATCH)):
        placed = [(n, s, places) for n, s in batch if (places := _place(data, n, s, index, report))]
        contents = iter(read_images([place for *_, places in placed for place in places]))
        for number, span, places in placed:
            images = [next(contents) for _ in places]
            reason = next((image for image in images if isinstance(image, str)), None)
            if reason:
                report.left_out[reason] += 1
                continue
            endings = [_find_ending(place) for place in places]
            pairs = [(e, i) for e, i in zip(endings, images, strict=True) if isinstance(i, bytes)]
            yield _Sample(number, span, _find_caption(data, number, span.value), pairs)


def _place(
    data: str, number: int, span: Span, index: ImageIndex, report: ShardsReport
) -> list[Place]:
    """The places of a record's images; none if it is left out, which is counted."""
    reading = read_fields(data, number, span.value)
    reason = reading.fault.reason if reading.fault else None
    if not reason and not reading.images:
        reason = "text_only"
    places: list[Place] = []
    for image in () if reason else reading.images:
        place = index.find(normalise_name(image))
        if isinstance(place, str):
            reason = place
            break
        places.append(place)
    if reason:
        report.left_out[reason] += 1
        return []
    return places


def _find_caption(data: str, number: int, record: Any) -> str:
    found = parse_record(data, number, record)
    return "" if isinstance(found, Unusable) else found.turns[0][1]


def _find_ending(place: Place) -> str:
    name = storage.base_name(place["member"] or place["uri"])
    return name.rpartition(".")[2].lower() if "." in name else "jpg"


class _Shard:
    """A tar that grows in a temporary file."""

    def __init__(self) -> None:
        self._file = NamedTemporaryFile()  # noqa: SIM115 - it lives as long as the shard grows
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.samples = 0

    @property
    def size(self) -> int:
        return self._file.tell()

    def add(self, sample: _Sample) -> None:
        key = f"{sample.number:09d}"
        for at, (ending, content) in enumerate(sample.images):
            add_member(self._tar, f"{key}.{f'{at}.' if at else ''}{ending}", content)
        add_member(self._tar, f"{key}.txt", sample.caption.encode())
        text = sample.span.text.encode("utf-8", "surrogateescape")
        add_member(self._tar, f"{key}.json", text)
        self.samples += 1

    def close(self, to: str, report: ShardsReport) -> None:
        """Write the shard to its place, unless it is empty."""
        self._tar.close()
        self._file.flush()
        if self.samples:
            uri = storage.join(to, f"{report.files:05d}.tar")
            if not storage.create_file(uri, Path(self._file.name)):
                raise ConfigError(f"to: {uri} exists, and nothing is written over")
            report.files += 1
            report.samples += self.samples
        self._file.close()
