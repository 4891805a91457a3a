"""What `--plan` says of an input of mixed sizes, against the run that follows."""

import io
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from s4v_core.demo.scenes import draw_scenes
from s4v_core.demo.shipped import CAPTIONER
from tests.conftest import SHARED_DATA, photo, write_tar
from tests.flow.oracle import planned_and_found
from tests.flow.scripts import start

IMAGES, PHOTOS, SHARDS = 2000, 395, 10
LIMIT = 0.15
"""How far duration and size may be from what was planned."""
MOST_S = 1500

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * MOST_S)]


def _pictures() -> Iterator[bytes]:
    """Photographs of many sizes, real ones where they are there, then drawn scenes."""
    real = sorted((SHARED_DATA / "photos").glob("*.jpg"))[:PHOTOS]
    yield from (path.read_bytes() for path in real)
    yield from (photo(n, (200 + 7 * n, 160 + 5 * n)) for n in range(PHOTOS - len(real)))
    for _, image in islice(draw_scenes(0), IMAGES - PHOTOS):
        yield _jpeg(image)


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _write_shards(folder: Path) -> None:
    """Sizes are spread over all shards."""
    pictures = list(_pictures())
    for shard in range(SHARDS):
        members = {f"{n:06d}.jpg": pictures[n] for n in range(shard, IMAGES, SHARDS)}
        write_tar(folder / f"{shard:05d}.tar", members)


def _caption(folder: Path, *flags: str) -> str:
    flags = ("--input", "shards", "--output", "out", "--model", str(CAPTIONER), *flags)
    process = start("caption.py", *flags, cwd=folder)
    try:
        out, complaints = process.communicate(timeout=MOST_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    assert process.returncode == 0, complaints[-3000:]
    return out


def test_a_plan_of_photographs_and_scenes_comes_true(tmp_path: Path) -> None:
    _write_shards(tmp_path / "shards")
    _caption(tmp_path, "--plan")
    said = _caption(tmp_path)
    compared = planned_and_found(tmp_path / "out")
    print(compared)  # noqa: T201
    assert "planned " in said
    for planned, found in compared.values():
        assert abs(found / planned - 1) <= LIMIT, compared
