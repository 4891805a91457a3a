"""Workers with too little memory: the kernel kills them, and one image alone is to blame."""

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
    """A control group whose processes have 1 GiB together."""
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


def _confine(driver: subprocess.Popen[str], group: Path) -> None:
    """Every engine actor of the run, the ones that replace the dead included."""
    while driver.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            for process in engine_actors(driver):
                (group / "cgroup.procs").write_text(str(process.pid))
        time.sleep(0.05)


def _kills(group: Path) -> int:
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
    warden = threading.Thread(target=_confine, args=(driver, small_group))
    warden.start()
    _, err = driver.communicate(timeout=800)
    warden.join()
    assert driver.returncode == 0, err[-3000:]
    rows = world.prove(tmp_path / "out")
    for image_id in world.faults:
        assert (rows[image_id]["status"], rows[image_id]["reason"]) == ("error", "worker_died")
    assert _kills(small_group) >= len(faults)
