"""Indexing of 100 tar shards against reading the same bytes once.

python -m tests.perf.indexing

Indexing reads the headers of a shard and checks that it is complete; the plain loop reads every
byte and keeps nothing. "From the disk" means that the shards were dropped from the page cache
before, as a pass finds them, because a million images do not fit into memory. In the other rows the
bytes are in the page cache, where reading is fastest, so that they show the cost of parsing
headers. "One process" calls a function for each shard; "as a pass does" runs the Ray Data job on a
running Ray with started workers, against one plain loop per core. Read the ratio of the rates:
above 1, indexing ends before the bytes could have been read. Goal: 0.90 in every pair. One process
reads and then parses headers, so the ratio falls when the disk happens to be fast. It also depends
on the size of images, so there are two sizes.
On S3 (moto) network traffic is measured: the bytes of all answers over the bytes stored, for images
alone and with text files beside them. Goal: at most one read of each shard, which is 1.00, plus the
headers of the answers.
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
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.inputs.shards import Shard
from s4v_core.records.row_spool import RowSpool
from tests.conftest import moto_server, write_tar
from tests.faults.proxy import FaultProxy
from tests.perf.measuring import Goal, format_spread, measure_in_turns, ratios, record
from tests.perf.passes import cluster

SHARDS, S3_SHARDS, PAIRS = 100, 10, 5
IMAGES = {100_000: 160, 20_000: 800}
"""Images per shard, by the bytes of each image."""
BESIDE = {"images alone": (), "a .json and a .txt beside each": ("json", "txt")}
CORES = os.cpu_count() or 1
AT_ONCE = 1 << 20
COLD = "one process, from the disk"


def read_plainly(paths: Sequence[Path]) -> int:
    """Read each file once; return the number of bytes."""
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while data := file.read(AT_ONCE):
                total += len(data)
    return total


def main() -> None:
    """Run the benchmark, for about four minutes on two cores; writes 1.6 GB of shards at a time."""
    figures: dict[str, Any] = {}
    lines = [
        "| 100 shards on a disk | indexing, MB/s | reading, MB/s | ratio |",
        "|---|---|---|---|",
    ]
    for size, count in IMAGES.items():
        with tempfile.TemporaryDirectory() as name:
            paths = _write_shards(Path(name), SHARDS, count, size)
            shards = find_shards([name])
            found = _measure_alone(shards, paths, count) | _measure_in_a_pass(shards, paths, count)
        for way, (mine, theirs) in found.items():
            figures[f"{way}, {size} bytes"] = {"index_mb_s": mine, "read_mb_s": theirs}
            cells = (
                format_spread(mine, 0),
                format_spread(theirs, 0),
                format_spread(ratios(mine, theirs)),
            )
            lines.append(f"| images of {size // 1000} kB, {way} | {' | '.join(cells)} |")
    lines += ["", "| shards on S3 | bytes read over bytes stored | requests a shard |"]
    lines += ["|---|---|---|"]
    with _open_counted_s3() as (address, proxy):
        for beside, endings in BESIDE.items():
            share, reads = _measure_s3(address, proxy, endings)
            figures[f"S3, {beside}"] = {"read_over_stored": share, "reads": reads}
            lines.append(f"| {beside} | {share:.3f} | {reads:.1f} |")
    record("indexing", figures, "\n".join(lines))


Rates = dict[str, tuple[list[float], list[float]]]
"""MB/s of indexing and of reading, by number of processes and place of the bytes."""


def _measure_alone(shards: list[Shard], paths: list[Path], count: int) -> Rates:
    """Measure one process without Ray, whose own processes always use some CPU time."""
    os.sync()
    size = read_plainly(paths)  # also fills the page cache
    mine = partial(_measure_rate, size, partial(_index, shards, len(shards) * count))
    theirs = partial(_measure_rate, size, partial(read_plainly, paths))
    cold = measure_in_turns(
        PAIRS, partial(_measure_uncached, paths, mine), partial(_measure_uncached, paths, theirs)
    )
    return {COLD: cold, "one process": measure_in_turns(PAIRS, mine, theirs)}


def _measure_in_a_pass(shards: list[Shard], paths: list[Path], count: int) -> Rates:
    parts = [paths[at::CORES] for at in range(CORES)]
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would copy locks that Ray's threads hold
    with cluster(), ProcessPoolExecutor(CORES, context) as pool:
        size = sum(pool.map(read_plainly, parts))  # starts the processes
        mine = partial(_measure_rate, size, partial(_index_with_ray, shards, len(shards) * count))
        mine()  # starts Ray's workers
        theirs = partial(_measure_rate, size, lambda: list(pool.map(read_plainly, parts)))
        return {"as a pass does": measure_in_turns(PAIRS, mine, theirs)}


def _measure_uncached(paths: list[Path], measured: Callable[[], float]) -> float:
    """Measure with none of the files in the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return measured()


def _measure_rate(size: int, work: Callable[[], object]) -> float:
    """Run `work`; return its rate in MB/s."""
    started = time.monotonic()
    work()
    return size / 1e6 / (time.monotonic() - started)


def _index(shards: list[Shard], images: int) -> None:
    found = [index_shard(shard) for shard in shards]
    assert sum(len(rows) for rows, _ in found) == images
    assert not any(account.damages for _, account in found)


def _index_with_ray(shards: list[Shard], images: int) -> None:
    with RowSpool(INDEX_SCHEMA, len(shards)) as spool:
        accounts = index_shards(shards, spool, lambda images: None)
        assert sum(spool.input_rows) == images
    assert not any(account["damages"] for account in accounts)


def _write_shards(
    folder: Path, shards: int, count: int, size: int, endings: Sequence[str] = ()
) -> list[Path]:
    """Write shards of random bytes, since indexing does not decode images."""
    paths = []
    for shard in range(shards):
        members = {}
        for number in range(count):
            members[f"{number:06d}.jpg"] = os.urandom(size)
            members |= {f"{number:06d}.{ending}": b'{"caption": "a"}' for ending in endings}
        paths.append(write_tar(folder / f"{shard:04d}.tar", members))
    return paths


@contextmanager
def _open_counted_s3() -> Iterator[tuple[str, FaultProxy]]:
    """Yield the address of an S3 and the counting proxy through which this process reaches it."""
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


def _measure_s3(address: str, proxy: FaultProxy, endings: Sequence[str]) -> tuple[float, float]:
    """Measure bytes read over bytes stored, and the GET requests per shard."""
    import s3fs

    size, bucket = max(IMAGES), f"with{len(endings)}"
    store = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
    store.mkdir(bucket)
    with tempfile.TemporaryDirectory() as name:
        for path in _write_shards(Path(name), S3_SHARDS, IMAGES[size], size, endings):
            store.put_file(str(path), f"{bucket}/{path.name}")
    shards = find_shards([f"s3://{bucket}"])
    listed = proxy.reads, proxy.read_bytes
    _index(shards, S3_SHARDS * IMAGES[size])
    reads, read_bytes = proxy.reads - listed[0], proxy.read_bytes - listed[1]
    return read_bytes / sum(shard.size for shard in shards), reads / len(shards)


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    """The goals, for shards that are not in the page cache, as a pass finds them."""
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
