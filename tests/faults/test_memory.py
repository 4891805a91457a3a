"""Engine actors with too little memory: the kernel kills them, and only one image is blamed."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from s4v_core.engines.fake_faults import Fault
from tests.faults.world import build_world
from tests.flow.scripts import FAKE, engine_actors, start

GROUPS = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 1 << 30

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.access(GROUPS / "cgroup.procs", os.W_OK),
        reason="needs root and the memory controller of control groups, version 1",
    ),
]


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group whose processes may use 1 GiB in total."""
    group = GROUPS / f"s4v-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    yield group
    deadline = time.monotonic() + 30
    while True:
        try:
            group.rmdir()  # busy until the last process is reaped
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def _confine_engine_actors(driver: subprocess.Popen[str], group: Path) -> None:
    """Move all engine actors of the run into the group, also those that replace dead ones."""
    while driver.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            for process in engine_actors(driver):
                (group / "cgroup.procs").write_text(str(process.pid))
        time.sleep(0.05)


def _count_kernel_kills(group: Path) -> int:
    lines = (group / "memory.oom_control").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def test_an_image_that_takes_all_memory_ends_as_a_row_and_no_other_is_lost(
    small_group: Path, tmp_path: Path
) -> None:
    faults = dict.fromkeys((20, 100, 101, 250, 390), Fault.GREED)
    world = build_world(tmp_path / "shards", images=400, shards=4, faults=faults)
    flags = ["--input", str(world.shards), "--output", str(tmp_path / "out"), *FAKE]
    flags += ["--settings.fake-faults", "--settings.fake-latency-s", "0.5"]
    flags += ["--unit-size", "16", "--settings.max-num-seqs", "16"]
    driver = start("caption.py", *flags, cwd=tmp_path)
    confining = threading.Thread(target=_confine_engine_actors, args=(driver, small_group))
    confining.start()
    _, err = driver.communicate(timeout=800)
    confining.join()
    assert driver.returncode == 0, err[-3000:]
    rows = world.prove(tmp_path / "out")
    for image_id in world.faults:
        assert (rows[image_id]["status"], rows[image_id]["reason"]) == ("error", "worker_died")
    assert _count_kernel_kills(small_group) >= len(faults)
