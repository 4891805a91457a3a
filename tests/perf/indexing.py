"""Indexing of 100 tar shards against reading the same bytes once.

python -m tests.perf.indexing

Indexing asks a shard for its headers and proves it whole; the plain loop reads every byte and keeps
none. "From the disk" the page cache was told to forget the shards before: so a pass finds them, for
a million images fit no memory. Elsewhere both find the bytes in the page cache, where reading is as
fast as it can be, so that is what the headers cost beyond their bytes. "One process" is a function
call for each shard; "as a pass does" is its Ray Data job, on a Ray that runs and whose workers have
started, against as many plain loops as there are cores. Read the ratio of the rates: above 1,
indexing is done before the bytes could have been read. Goal: 0.90 in every pair, for one process
reads and then looks at headers, so that the ratio goes down where the disk happens to be quick. It
depends on how large images are as well, so there are two sizes.
On S3 (moto) what counts is what crosses the network: bytes of all answers over bytes stored, for
images alone and with texts beside them. Goal: at most one read of each shard, which is 1.00 and
the headers of the answers.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from s4v_core.flow.shard_indexing import index_shards
from s4v_core.inputs.indexing import index_shard
from s4v_core.inputs.shards import Shard, find_shards
from tests.conftest import moto_server, write_tar
from tests.faults.proxy import FaultProxy
from tests.perf.measuring import Goal, by_turns, ratios, record, spread
from tests.perf.passes import cluster

SHARDS, S3_SHARDS, PAIRS = 100, 10, 5
IMAGES = {100_000: 160, 20_000: 800}
"""Images of a shard, by the bytes of each."""
BESIDE = {"images alone": (), "a .json and a .txt beside each": ("json", "txt")}
CORES = os.cpu_count() or 1
AT_ONCE = 1 << 20
COLD = "one process, from the disk"


def plain(paths: Sequence[Path]) -> int:
    """Reads each file once; how many bytes."""
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while data := file.read(AT_ONCE):
                total += len(data)
    return total


def main() -> None:
    """Runs for about four minutes on two cores; writes 1.6 GB of shards at a time."""
    figures: dict[str, Any] = {}
    lines = [
        "| 100 shards on a disk | indexing, MB/s | reading, MB/s | ratio |",
        "|---|---|---|---|",
    ]
    for size, count in IMAGES.items():
        with tempfile.TemporaryDirectory() as name:
            paths = _write(Path(name), SHARDS, count, size)
            shards = find_shards([name])
            found = _alone(shards, paths, count) | _in_a_pass(shards, paths, count)
        for way, (mine, theirs) in found.items():
            figures[f"{way}, {size} bytes"] = {"index_mb_s": mine, "read_mb_s": theirs}
            cells = (spread(mine, 0), spread(theirs, 0), spread(ratios(mine, theirs)))
            lines.append(f"| images of {size // 1000} kB, {way} | {' | '.join(cells)} |")
    lines += ["", "| shards on S3 | bytes read over bytes stored | requests a shard |"]
    lines += ["|---|---|---|"]
    with _counted_s3() as (address, proxy):
        for beside, endings in BESIDE.items():
            share, reads = _on_s3(address, proxy, endings)
            figures[f"S3, {beside}"] = {"read_over_stored": share, "reads": reads}
            lines.append(f"| {beside} | {share:.3f} | {reads:.1f} |")
    record("indexing", figures, "\n".join(lines))


Rates = dict[str, tuple[list[float], list[float]]]
"""MB/s of indexing and of reading, by how many take part and where the bytes are."""


def _alone(shards: list[Shard], paths: list[Path], count: int) -> Rates:
    """No Ray runs beside it, whose own processes never rest."""
    os.sync()
    size = plain(paths)  # and the page cache is warm
    mine = partial(_rate, size, partial(_indexed, shards, len(shards) * count))
    theirs = partial(_rate, size, partial(plain, paths))
    cold = by_turns(PAIRS, partial(_forgotten, paths, mine), partial(_forgotten, paths, theirs))
    return {COLD: cold, "one process": by_turns(PAIRS, mine, theirs)}


def _in_a_pass(shards: list[Shard], paths: list[Path], count: int) -> Rates:
    parts = [paths[at::CORES] for at in range(CORES)]
    context = multiprocessing.get_context("spawn")  # what Ray's threads hold would be forked
    with cluster(), ProcessPoolExecutor(CORES, context) as pool:
        size = sum(pool.map(plain, parts))  # its processes have started
        mine = partial(_rate, size, partial(_indexed_by_ray, shards, len(shards) * count))
        mine()  # and Ray's have
        theirs = partial(_rate, size, lambda: list(pool.map(plain, parts)))
        return {"as a pass does": by_turns(PAIRS, mine, theirs)}


def _forgotten(paths: list[Path], measured: Callable[[], float]) -> float:
    """What is measured with none of the files in the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return measured()


def _rate(size: int, work: Callable[[], object]) -> float:
    """MB/s."""
    started = time.monotonic()
    work()
    return size / 1e6 / (time.monotonic() - started)


def _indexed(shards: list[Shard], images: int) -> None:
    found = [index_shard(shard) for shard in shards]
    assert sum(len(index.rows) for index in found) == images
    assert not any(index.damages for index in found)


def _indexed_by_ray(shards: list[Shard], images: int) -> None:
    tables, accounts = index_shards(shards, lambda images: None)
    assert sum(table.num_rows for table in tables) == images
    assert not any(account["damages"] for account in accounts)


def _write(
    folder: Path, shards: int, count: int, size: int, endings: Sequence[str] = ()
) -> list[Path]:
    """Shards of noise: nobody looks into an image here."""
    paths = []
    for shard in range(shards):
        members = {}
        for number in range(count):
            members[f"{number:06d}.jpg"] = os.urandom(size)
            members |= {f"{number:06d}.{ending}": b'{"caption": "a"}' for ending in endings}
        paths.append(write_tar(folder / f"{shard:04d}.tar", members))
    return paths


@contextmanager
def _counted_s3() -> Iterator[tuple[str, FaultProxy]]:
    """The address of an S3, and the proxy through which this process reaches it."""
    import s3fs

    with moto_server() as address:
        proxy = FaultProxy(address)
        os.environ["AWS_ENDPOINT_URL"] = proxy.address
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield address, proxy
        finally:
            proxy.close()
            s3fs.S3FileSystem.clear_instance_cache()


def _on_s3(address: str, proxy: FaultProxy, endings: Sequence[str]) -> tuple[float, float]:
    """Bytes that came over bytes that lie there, and GET requests of a shard."""
    import s3fs

    size, bucket = max(IMAGES), f"with{len(endings)}"
    store = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
    store.mkdir(bucket)
    with tempfile.TemporaryDirectory() as name:
        for path in _write(Path(name), S3_SHARDS, IMAGES[size], size, endings):
            store.put_file(str(path), f"{bucket}/{path.name}")
    shards = find_shards([f"s3://{bucket}"])
    listed = proxy.reads, proxy.read_bytes
    _indexed(shards, S3_SHARDS * IMAGES[size])
    reads, read_bytes = proxy.reads - listed[0], proxy.read_bytes - listed[1]
    return read_bytes / sum(shard.size for shard in shards), reads / len(shards)


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    """Of what a pass meets: shards that nobody has read lately."""
    found = []
    for size in IMAGES:
        rates = figures[f"{COLD}, {size} bytes"]
        least = min(ratios(rates["index_mb_s"], rates["read_mb_s"]))
        about = f"least indexing over reading in any pair, images of {size // 1000} kB"
        found.append(Goal(about, least, 0.9))
    for beside in BESIDE:
        share = figures[f"S3, {beside}"]["read_over_stored"]
        found.append(Goal(f"bytes read from S3 over bytes stored, {beside}", share, 1.0, False))
    return found


if __name__ == "__main__":
    main()
