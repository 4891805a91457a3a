"""Generated images in shards, some of which break engines, and a check that none is lost."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from s4v_core.engines.fake_faults import Fault
from tests.conftest import write_tar
from tests.flow.oracle import check_rows, fake_caption_of

SIZE = (40, 30)
LARGE_IMAGES, LARGE_SHARDS, LARGE_UNIT = 10_000, 8, 64
LARGE_UNITS = LARGE_SHARDS * -(-LARGE_IMAGES // LARGE_SHARDS // LARGE_UNIT)


@dataclass(frozen=True)
class World:
    """Generated images and what must become of them.

    Attributes:
        shards: Folder of the tar shards.
        images: Encoded images, by id (`<shard>/<key>`).
        faults: Fault of each image that breaks something, by id.
    """

    shards: Path
    images: Mapping[str, bytes]
    faults: Mapping[str, Fault]

    @cached_property
    def captions(self) -> dict[str, str]:
        """The fake engine's caption of each image, computed without the project's code."""
        return {image_id: fake_caption_of(data) for image_id, data in self.images.items()}

    def prove(self, output: Path) -> dict[str, dict]:
        """Check that every image has exactly one row, and every caption belongs to its image.

        Returns:
            The rows, by image id.
        """
        rows = {row["image_id"]: row for row in check_rows(output)}
        assert set(rows) == set(self.images)
        for image_id, row in rows.items():
            if image_id not in self.faults:
                assert row["status"] == "ok", (image_id, row["reason"])
            if row["status"] == "ok":
                assert row["caption"] == self.captions[image_id], image_id
        return rows


def build_world(
    folder: Path, images: int, shards: int, faults: Mapping[int, Fault] | None = None
) -> World:
    """Write tar shards of generated images.

    Args:
        faults: Fault of each image that shall break something, by the number of the image.
    """
    faults = faults or {}
    made: dict[str, bytes] = {}
    broken: dict[str, Fault] = {}
    per_shard = -(-images // shards)
    for shard in range(shards):
        members = {}
        for number in range(shard * per_shard, min((shard + 1) * per_shard, images)):
            key = f"{number:06d}.png"
            members[key] = fault_picture(faults[number]) if number in faults else picture(number)
            image_id = f"{shard:04d}/{number:06d}"
            made[image_id] = members[key]
            if number in faults:
                broken[image_id] = faults[number]
        write_tar(folder / f"{shard:04d}.tar", members)
    return World(folder, made, broken)


def failpoint(name: str, nth: int, folder: Path) -> dict[str, str]:
    """Build an environment that kills the `nth` process to reach a point.

    Each process that reaches the point leaves a file in the folder `reached`.
    """
    (folder / "reached").mkdir(parents=True, exist_ok=True)
    return {"S4V_FAILPOINT": f"{name}:{nth}:{folder / 'reached'}"}


def picture(number: int) -> bytes:
    """Draw a small PNG that differs from that of every other number."""
    pixels = np.random.default_rng(number).integers(0, 250, (3, 4, 3), dtype=np.uint8)
    return _png(Image.fromarray(pixels).resize(SIZE, Image.Resampling.BILINEAR))


def fault_picture(fault: Fault) -> bytes:
    """Draw a PNG that causes the fault in engines with `fake_faults`."""
    return _png(Image.new("RGB", SIZE, (255, 0, int(fault))))


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return sink.getvalue()
