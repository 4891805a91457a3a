"""Reads the images of a run again, as they are stored, for exports that hold them."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from s4v_core import storage
from s4v_core.captioning.export.image_names import FileNames, choose_ending
from s4v_core.captioning.export.run_rows import ImageRow, RunRows
from s4v_core.inputs.image_bytes import read_images

_CHUNK_BYTES = 256 << 20
"""Bytes of images that are held at the same time, at most, unless one image alone has more."""

_CHUNK_ROWS = 64
"""Rows that are read at once where the plan does not know their lengths."""


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image with its caption, and names for new files.

    Attributes:
        unit: Number of its unit.
        name: File name without an ending, unique within the export.
        ending: Ending for the image's file.
        content: The encoded image, byte for byte as it is stored.
    """

    unit: int
    row: ImageRow
    name: str
    ending: str
    content: bytes


@dataclass(slots=True)
class ImageReader:
    """Iterates over the captioned images of a run, in the order of its plan.

    Attributes:
        left_out: Images that were captioned and cannot be read any more, by reason.
    """

    rows: RunRows
    left_out: Counter[str] = field(default_factory=Counter)

    def read(self) -> Iterator[NamedImage]:
        """Each image that has a caption and can be read.

        Raises:
            StorageError: The store of the images does not answer.
        """
        names, done = FileNames(), iter(self.rows.read_units())
        following = next(done, None)
        for unit in self.rows.head.units:
            # Units without rows take their names, too: they will have rows when the run is done.
            if following is None or following[0] != unit:
                for planned in self.rows.read_planned(unit):
                    names.choose(planned["image_id"])
                continue
            named = [(names.choose(row.image_id), row) for row in following[1]]
            following = next(done, None)
            for chunk in _cut([(name, row) for name, row in named if row.is_ok]):
                yield from self._read_chunk(unit, chunk)

    def _read_chunk(self, unit: int, chunk: list[tuple[str, ImageRow]]) -> Iterator[NamedImage]:
        with storage.patience(storage.UNIT_PATIENCE_S):
            contents = read_images([row.planned for _, row in chunk])
        for (name, row), content in zip(chunk, contents, strict=True):
            if isinstance(content, bytes) and _is_other_image(row, content):
                content = "source_changed"
            if isinstance(content, str):
                self.left_out[content] += 1
                continue
            yield NamedImage(unit, row, name, choose_ending(row.planned, row.result), content)


def _is_other_image(row: ImageRow, content: bytes) -> bool:
    """Whether these bytes are not those that were captioned."""
    known = row.result["image_sha256"]
    return known is not None and hashlib.sha256(content).hexdigest() != known


def _cut(rows: list[tuple[str, ImageRow]]) -> Iterator[list[tuple[str, ImageRow]]]:
    """Rows in chunks whose images fit into memory together."""
    chunk: list[tuple[str, ImageRow]] = []
    size = 0
    for name, row in rows:
        length = row.planned["length"] or _CHUNK_BYTES // _CHUNK_ROWS
        if chunk and size + length > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, row))
        size += length
    if chunk:
        yield chunk
