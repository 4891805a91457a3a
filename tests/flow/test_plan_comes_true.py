"""The forecast of `--plan` for an input of mixed sizes, compared with the run."""

import subprocess
from pathlib import Path

import pytest

from s4v_core.demo.scene_files import write_scenes
from s4v_core.demo.shipped import CAPTIONER
from tests.conftest import SHARED_DATA, photo, write_tar
from tests.flow.oracle import compare_with_plan
from tests.flow.scripts import start

PHOTOS, PHOTO_SHARDS, SCENES = 395, 2, 1605
LIMIT = 0.15
"""Largest allowed relative difference of duration and size from the plan."""
RUN_LIMIT_S = 1500

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * RUN_LIMIT_S)]


def _write_shards(folder: Path) -> None:
    """Write photographs of many sizes, real ones if there are any, and drawn scenes."""
    pictures = [file.read_bytes() for file in sorted((SHARED_DATA / "photos").glob("*.jpg"))]
    pictures += [photo(n, (200 + 7 * n, 160 + 5 * n)) for n in range(len(pictures), PHOTOS)]
    for shard in range(PHOTO_SHARDS):
        members = {f"{n:06d}.jpg": pictures[n] for n in range(shard, PHOTOS, PHOTO_SHARDS)}
        write_tar(folder / "photos" / f"{shard:05d}.tar", members)
    write_scenes(folder / "scenes", SCENES, per_shard=200)


def _caption(folder: Path, *flags: str) -> str:
    flags = (
        "--input",
        "photos",
        "--input",
        "scenes",
        "--output",
        "out",
        "--model",
        str(CAPTIONER),
        *flags,
    )
    process = start("caption.py", *flags, cwd=folder)
    try:
        out, complaints = process.communicate(timeout=RUN_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    assert process.returncode == 0, complaints[-3000:]
    return out


def test_a_plan_of_photographs_and_scenes_comes_true(tmp_path: Path) -> None:
    _write_shards(tmp_path)
    _caption(tmp_path, "--plan")
    report = _caption(tmp_path)
    compared = compare_with_plan(tmp_path / "out")
    print(compared)  # noqa: T201
    assert "planned " in report
    for planned, found in compared.values():
        assert abs(found / planned - 1) <= LIMIT, compared
