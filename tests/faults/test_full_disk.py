"""An output disk that is full: one sentence, no part of a file, and the run resumes."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.head import head_node
from tests.faults.world import build_world
from tests.flow.scripts import FAKE, run

pytestmark = pytest.mark.timeout(300)

Resize = Callable[[str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)

    yield disk, resize
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_run_resumes(
    small_disk: tuple[Path, Resize], tmp_path: Path
) -> None:
    disk, resize = small_disk
    world = build_world(tmp_path / "shards", images=200, shards=4)
    flags = ["--input", str(world.shards), "--output", str(disk / "out"), *FAKE]
    flags += ["--unit-size", "10"]
    code, _, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 1
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert not list(disk.rglob(".*.partial"))
    resize("20m")
    code, _, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, err
    world.prove(disk / "out")


@pytest.mark.faults
def test_a_full_disk_below_ray_loses_nothing(
    small_disk: tuple[Path, Resize], tmp_path: Path
) -> None:
    """Ray's store holds four units, and where it would put more there is no room."""
    disk, resize = small_disk
    world = build_world(tmp_path / "shards", images=640, shards=4)
    flags = ["--input", str(world.shards), "--output", str(tmp_path / "out"), *FAKE]
    flags += ["--unit-size", "64", "--settings.fake-latency-s", "0.1"]
    store = ("--object-store-memory=90000000", f"--object-spilling-directory={disk}")
    with head_node(flags=store) as variables:
        joining = {name: variables[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        joining |= {"RAY_ADDRESS": variables["GCS"]}
        run("caption.py", *flags, cwd=tmp_path, **joining)
        resize("200m")
        code, _, err = run("caption.py", *flags, cwd=tmp_path, **joining)
    assert code == 0, err
    world.prove(tmp_path / "out")
