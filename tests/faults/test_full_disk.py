"""Full disks: the run ends with one sentence, leaves no partial file, and resumes."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.head import driver_variables, head_node
from tests.faults.world import World, build_world
from tests.flow.scripts import FAKE, run, start, wait_for_units

pytestmark = pytest.mark.timeout(300)

Resize = Callable[[str], None]


@pytest.fixture
def small_disk() -> Iterator[tuple[Path, Resize]]:
    disk = Path(tempfile.mkdtemp(prefix="s4v"))  # short: the paths of Ray's sockets have a limit
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)

    yield disk, resize
    subprocess.run(["umount", "-l", str(disk)], check=True)
    disk.rmdir()


def _build_flags(world: World, output: Path, *more: str) -> list[str]:
    return ["--input", str(world.shards), "--output", str(output), *FAKE, *more]


def test_a_full_disk_is_reported_and_the_run_resumes(
    small_disk: tuple[Path, Resize], tmp_path: Path
) -> None:
    disk, resize = small_disk
    world = build_world(tmp_path / "shards", images=200, shards=4)
    flags = _build_flags(world, disk / "out", "--unit-size", "10")
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
def test_a_full_spilling_disk_of_ray_loses_nothing(
    small_disk: tuple[Path, Resize], tmp_path: Path
) -> None:
    """Ray's store holds four units and spills when more than a tenth of it is used, but the disk
    for spilling is full."""
    disk, resize = small_disk
    world = build_world(tmp_path / "shards", images=640, shards=4)
    flags = _build_flags(
        world, tmp_path / "out", "--unit-size", "64", "--settings.fake-latency-s", "1"
    )
    store = ("--object-store-memory=90000000", f"--object-spilling-directory={disk}")
    with head_node(flags=store, RAY_object_spilling_threshold="0.1") as variables:
        code, _, err = run("caption.py", *flags, cwd=tmp_path, **driver_variables(variables))
        assert code in (0, 1), err
        assert "Traceback" not in err
        raylet_log = (Path(variables["LOGS"]) / "raylet.out").read_text()
        assert "Triggering object spilling" in raylet_log
        assert "Object creation will fail if spilling is required" in raylet_log
        resize("200m")
        code, _, err = run("caption.py", *flags, cwd=tmp_path, **driver_variables(variables))
    assert code == 0, err
    world.prove(tmp_path / "out")


@pytest.mark.faults
def test_a_full_temporary_folder_of_ray_loses_nothing(
    small_disk: tuple[Path, Resize], tmp_path: Path
) -> None:
    """For a while nothing can be written to the folder of Ray's logs, sockets and spilled objects.
    The running pass and one that starts meanwhile continue or stop with a sentence."""
    disk, resize = small_disk
    resize("1g")  # Ray does not start on a disk that hardly holds its logs
    world = build_world(tmp_path / "shards", images=640, shards=4)
    flags = _build_flags(
        world, tmp_path / "out", "--unit-size", "16", "--settings.fake-latency-s", "1"
    )
    with head_node(flags=(f"--temp-dir={disk}",)) as variables:
        driver = start("caption.py", *flags, cwd=tmp_path, **driver_variables(variables))
        wait_for_units(tmp_path / "out", 2, driver)
        _fill_disk(disk / "filler")
        code, _, err = run("caption.py", *flags, cwd=tmp_path, **driver_variables(variables))
        assert code in (0, 1, 2), err
        assert "Traceback" not in err
        (disk / "filler").unlink()
        _, err = driver.communicate(timeout=240)
        assert driver.returncode in (0, 1), err
        assert "Traceback" not in err
        code, _, err = run("caption.py", *flags, cwd=tmp_path, **driver_variables(variables))
    assert code == 0, err
    world.prove(tmp_path / "out")


def _fill_disk(path: Path) -> None:
    """Write to a file until its disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.slow
def test_a_disk_that_fills_up_in_training_is_named_and_the_run_resumes(
    small_disk: tuple[Path, Resize], checkpoint: Path, tmp_path: Path
) -> None:
    from s4v_core.errors import StorageError
    from s4v_core.training.run import run_stage
    from s4v_core.training.stage import Saving
    from s4v_core.training.worker.checkpoints import list_checkpoints
    from tests.training.small_run import build_job, write_photo_lessons

    disk, resize = small_disk
    resize("12m")  # one checkpoint of this model takes about nine
    lessons = write_photo_lessons(tmp_path / "lessons", 40)
    job = build_job(lessons, checkpoint, disk / "run", saving=Saving(every_steps=3))
    with pytest.raises(StorageError, match=r"the disk is full .*No space left on device"):
        run_stage(job)
    assert [m.step for m in list_checkpoints(job.output)] == [3]
    assert not list(disk.rglob("*.partial"))
    resize("100m")
    assert run_stage(job).exit_code == 0
