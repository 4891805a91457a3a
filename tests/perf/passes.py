"""Runs `caption.py` with the fake engine on generated shards, and samples its memory."""

import itertools
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import photo, write_tar
from tests.flow.scripts import FAKE, start

SHARD, DIFFERENT = 5000, 500
TINY = (64, 48)
SAMPLE_EVERY_S = 1.0
PROCESSES = {
    "s4v_core.images.guard": "decoding",
    "VLLM::EngineCore": "engine's scheduler",
    "VLLM::Worker": "engine",
    "EngineActor": "engine's actor",
    "prepare_unit": "reading",
    "commit_unit": "committing",
    "caption.py": "driver",
}
"""Task of a process in a pass, by a part of its title."""
HOLDERS = ("driver", "workers", "decoders", "ray", "store")
"""Holders of memory: `caption.py`; Ray's workers; their decoding child processes; Ray's own
processes; the object store."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory of a pass at one moment.

    Attributes:
        at: Seconds since 1970.
        mib: MiB of each of HOLDERS. Processes other than the driver count only private memory,
            because what they share is the object store.
    """

    at: float
    mib: dict[str, float]


@dataclass(frozen=True, slots=True)
class PassResult:
    """Duration, output and memory samples of a pass.

    Attributes:
        wall_s: Seconds from start to end.
        ended_at: Time of the end, in seconds since 1970.
        printed: Text that it wrote to stdout.
        held: Memory samples, one per second.
    """

    wall_s: float
    ended_at: float
    printed: str
    held: list[MemorySample]

    def peak(self, holder: str) -> float:
        """The largest memory of a holder, in MiB."""
        return max(held.mib[holder] for held in self.held)


class Cluster:
    """A local Ray that outlives the passes in it, so that its store can be queried afterwards."""

    def __init__(self, address: str, node: dict[str, Any]) -> None:
        self.address, self._node = address, node

    def created_bytes(self) -> int:
        """Bytes of all objects that the store ever held. Ray sends small results in messages
        instead, which do not count."""
        return int(self._store().cumulative_created_bytes)

    def store_mib(self) -> float:
        """MiB of the objects that are in the store now."""
        return float(self._store().object_store_bytes_used) / 2**20

    def _store(self) -> Any:
        from ray._private.internal_api import node_stats

        place = self._node["NodeManagerAddress"], self._node["NodeManagerPort"]
        return node_stats(*place, include_memory_info=False).store_stats


@contextmanager
def cluster(cpus: int | None = None, setup: Callable[[], None] | None = None) -> Iterator[Cluster]:
    """Start a local Ray, by default as large as the one that `caption.py` starts by itself.

    Args:
        setup: Called at the start of each of its workers.
    """
    import ray

    from s4v_core.engines.settings import EngineSettings
    from s4v_core.flow.connection import local_cpus, set_normal_worker_priority
    from s4v_core.flow.pipeline import needed_cpus

    set_normal_worker_priority()
    about = ray.init(
        address="local",
        num_cpus=cpus or local_cpus(needed_cpus(EngineSettings(), 1)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"worker_process_setup_hook": setup} if setup else None,
    )
    try:
        yield Cluster(about.address_info["address"], ray.nodes()[0])
    finally:
        ray.shutdown()


def write_shards(
    folder: Path, images: int, size: tuple[int, int] = TINY, different: int = DIFFERENT
) -> None:
    """Write tar shards of generated JPEGs.

    All full shards are hard links to one file, so that a million images need little disk space, and
    reading them is not limited by the disk.
    """
    pictures = [photo(seed, size) for seed in range(min(different, images))]
    first = folder / "00000.tar"
    for number in range(-(-images // SHARD)):
        path, count = folder / f"{number:05d}.tar", min(SHARD, images - number * SHARD)
        if number and count == SHARD:
            os.link(first, path)
        else:
            shown = zip(range(count), itertools.cycle(pictures), strict=False)
            write_tar(path, {f"{n:06d}.jpg": picture for n, picture in shown})


def caption(
    shards: Path, output: Path, *flags: str, inside: Cluster | None = None, look: bool = True
) -> PassResult:
    """Run `caption.py` to its end, in its own Ray unless one is given.

    Args:
        look: Whether to sample memory, which needs `inside` and some CPU time.
    """
    started, ended = time.monotonic(), threading.Event()
    with (
        run_pass_process(shards, output, *flags, inside=inside) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        watch = pool.submit(_sample_memory, process.pid, inside, ended) if inside and look else None
        try:
            printed, complaints = process.communicate()
        finally:
            ended.set()
    assert process.returncode == 0, complaints[-3000:]
    held = watch.result() if watch else []
    return PassResult(time.monotonic() - started, time.time(), printed, held)


@contextmanager
def run_pass_process(
    shards: Path, output: Path, *flags: str, inside: Cluster | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start `caption.py`, and kill it if it still runs at the end of the block."""
    joined = {"RAY_ADDRESS": inside.address} if inside else {}
    places = ("--input", str(shards), "--output", str(output))
    process = start("caption.py", *FAKE, *places, *flags, cwd=output.parent, **joined)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _sample_memory(driver: int, inside: Cluster, ended: threading.Event) -> list[MemorySample]:
    found = []
    while not ended.wait(SAMPLE_EVERY_S):
        mib = dict.fromkeys(HOLDERS, 0.0)
        for process in psutil.Process().children(recursive=True):
            try:
                if holder := _find_holder(process, driver):
                    mib[holder] += _measure_own_mib(process, driver)
            except psutil.Error:  # the process has just ended
                continue
        mib["store"] = inside.store_mib()
        if mib["driver"]:
            found.append(MemorySample(time.time(), mib))
    return found


def _find_holder(process: psutil.Process, driver: int) -> str | None:
    """Find the holder that a process belongs to; None for processes outside the pass."""
    if process.pid == driver:
        return "driver"
    command = " ".join(process.cmdline())
    if "s4v_core.images.guard" in command:
        return "decoders"
    if command.startswith("ray::") or "default_worker" in command:
        return "workers"
    # A fork server's command line contains all of sys.path, including Ray's folders.
    return "ray" if "/ray/" in command and "multiprocessing" not in command else None


def _measure_own_mib(process: psutil.Process, driver: int) -> float:
    memory = process.memory_info()
    return float(memory.rss - (0 if process.pid == driver else memory.shared)) / 2**20
