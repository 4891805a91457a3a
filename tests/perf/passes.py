"""`caption.py` with the fake engine on generated shards, and what its processes hold meanwhile."""

import itertools
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
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
"""Part of a process's title, and what it does in a pass."""
HOLDERS = ("driver", "workers", "decoders", "ray", "store")
"""Who holds memory: `caption.py`; Ray's workers; the children that decode for them; Ray's own
processes; the object store."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a pass held at one moment.

    Attributes:
        at: Seconds since 1970.
        mib: By HOLDERS. Of processes other than the driver only memory that is theirs alone, for
            what they share is the store.
    """

    at: float
    mib: dict[str, float]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a pass went."""

    wall_s: float
    ended_at: float
    said: str
    held: list[Held]

    def peak(self, holder: str) -> float:
        """MiB."""
        return max(held.mib[holder] for held in self.held)


class Cluster:
    """A Ray on this machine that outlives the passes in it, so that its store can be asked."""

    def __init__(self, address: str, node: dict[str, Any]) -> None:
        self.address, self._node = address, node

    def created_bytes(self) -> int:
        """Of all objects that the store ever held. Small answers never go there: Ray sends them
        along with its messages."""
        return int(self._store().cumulative_created_bytes)

    def store_mib(self) -> float:
        """What the objects take that are there now."""
        return float(self._store().object_store_bytes_used) / 2**20

    def _store(self) -> Any:
        from ray._private.internal_api import node_stats

        place = self._node["NodeManagerAddress"], self._node["NodeManagerPort"]
        return node_stats(*place, include_memory_info=False).store_stats


@contextmanager
def cluster(cpus: int | None = None) -> Iterator[Cluster]:
    """With so many CPUs, or as large as the one that `caption.py` starts where there is none."""
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
    )
    try:
        yield Cluster(about.address_info["address"], ray.nodes()[0])
    finally:
        ray.shutdown()


def write_shards(
    folder: Path, images: int, size: tuple[int, int] = TINY, different: int = DIFFERENT
) -> None:
    """Tar shards of so many JPEGs.

    All whole ones are one file under many names: a million images need little disk, and reading
    them measures no disk.
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
) -> Ran:
    """Runs `caption.py` to its end, in a Ray of its own unless one is given; memory is looked at
    where one is given, unless not even that may cost anything."""
    started, ended = time.monotonic(), threading.Event()
    with (
        at_work(shards, output, *flags, inside=inside) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        watch = pool.submit(_watch, process.pid, inside, ended) if inside and look else None
        try:
            said, complaints = process.communicate()
        finally:
            ended.set()
    assert process.returncode == 0, complaints[-3000:]
    held = watch.result() if watch else []
    return Ran(time.monotonic() - started, time.time(), said, held)


@contextmanager
def at_work(
    shards: Path, output: Path, *flags: str, inside: Cluster | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`caption.py`, which does not outlive the block."""
    joined = {"RAY_ADDRESS": inside.address} if inside else {}
    places = ("--input", str(shards), "--output", str(output))
    process = start("caption.py", *FAKE, *places, *flags, cwd=output.parent, **joined)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _watch(driver: int, inside: Cluster, ended: threading.Event) -> list[Held]:
    found = []
    while not ended.wait(SAMPLE_EVERY_S):
        mib = dict.fromkeys(HOLDERS, 0.0)
        for process in psutil.Process().children(recursive=True):
            try:
                if holder := _holder(process, driver):
                    mib[holder] += _own_mib(process, driver)
            except psutil.Error:  # it has just gone
                continue
        mib["store"] = inside.store_mib()
        if mib["driver"]:
            found.append(Held(time.time(), mib))
    return found


def _holder(process: psutil.Process, driver: int) -> str | None:
    """None for what does not belong to a pass, as what an earlier benchmark has left."""
    if process.pid == driver:
        return "driver"
    command = " ".join(process.cmdline())
    if "s4v_core.images.guard" in command:
        return "decoders"
    if command.startswith("ray::") or "default_worker" in command:
        return "workers"
    # A forkserver's command has all of sys.path in it, Ray's folders among them.
    return "ray" if "/ray/" in command and "multiprocessing" not in command else None


def _own_mib(process: psutil.Process, driver: int) -> float:
    memory = process.memory_info()
    return float(memory.rss - (0 if process.pid == driver else memory.shared)) / 2**20
