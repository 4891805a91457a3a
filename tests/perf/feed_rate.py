"""How many images a core feeds: the pass with the fake engine against a plain decoding loop.

python -m tests.perf.feed_rate

The plain loop is Pillow alone in one process per core: it takes bytes from memory, decodes JPEGs at
reduced scale, resizes and crops, and keeps nothing. The pass reads tar shards and checks that they
are complete, decodes in guarded child processes, moves pixels through the object store to an engine
that answers at once, and commits rows.
Read the ratio: the share of the plain rate that the pass reaches. Goal: 0.80. The last column shows
how many images/s one core feeds, and so how many cores an A100 (7 images/s) and an H200 (about
three times that) need; the line below shows which processes used the cores meanwhile.
"""

import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from tests.conftest import photo, write_tar
from tests.flow.oracle import check_rows
from tests.perf.measuring import (
    CoreWatch,
    Goal,
    average,
    compute_median_ratio,
    format_shares,
    format_spread,
    measure_in_turns,
    rate,
    ratios,
    record,
)
from tests.perf.passes import PROCESSES, Cluster, caption, cluster

SIDE = 336
DIFFERENT, SHARDS, PAIRS = 32, 8, 5
SIZES = {(640, 480): (2560, 128), (2250, 1500): (960, 40)}
"""Images per pass and per unit, by image size."""
PLAIN_SHARE, WARM_SHARE = 0.4, 0.25
"""Shares of these images: those that the plain loop decodes, and the first ones of a pass, which do
not count because Ray's workers are still starting and importing."""
CORES = os.cpu_count() or 1
NEEDED = {"A100": 7.0, "H200": 21.0}


def decode_plainly(images: Sequence[bytes]) -> int:
    """Decode and frame each image; return their number."""
    for data in images:
        image = Image.open(io.BytesIO(data))
        # As in the pass: JPEGs are reduced at most to twice the size that is needed.
        scale = 2 * SIDE / min(image.size)
        image.draft("RGB", (round(image.width * scale), round(image.height * scale)))
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        box = (left, top, left + short, top + short)
        framed = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
        framed.tobytes()
    return len(images)


def _measure_plain_rate(images: Sequence[bytes], count: int) -> float:
    whole = list(itertools.islice(itertools.cycle(images), count // CORES))
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(decode_plainly, [whole[:8]] * CORES))  # starts the processes
        started = time.monotonic()
        done = sum(pool.map(decode_plainly, [whole] * CORES))
        return done / (time.monotonic() - started)


class Pass:
    """Runs `caption.py`, each time with a new output.

    Attributes:
        cores: Cores used by each kind of process while the counted images were made, for each
            measurement.
    """

    def __init__(self, shards: Path, folder: Path, unit: int, inside: Cluster) -> None:
        self._shards, self._folder, self._unit, self._inside = shards, folder, unit, inside
        self.cores: list[Mapping[str, float]] = []

    def measure(self) -> float:
        """Run a pass; return its images per second."""
        output = self._folder / f"out-{len(self.cores)}"
        with CoreWatch(PROCESSES, "rest of Ray") as watch:
            caption(
                *(self._shards, output, "--unit-size", str(self._unit)),
                inside=self._inside,
                look=False,
            )
        done_at = sorted(row["created_at"].timestamp() for row in check_rows(output))
        warm = round(len(done_at) * WARM_SHARE)
        self.cores.append(watch.cores(done_at[warm - 1], done_at[-1]))
        return rate(done_at, warm)


def _write_shards(folder: Path, images: Sequence[bytes], count: int) -> None:
    for shard in range(SHARDS):
        numbers = range(shard, count, SHARDS)
        members = {f"{n:06d}.jpg": images[n % DIFFERENT] for n in numbers}
        write_tar(folder / f"{shard:04d}.tar", members)


def main() -> None:
    """Run the benchmark, for about five minutes on two cores."""
    figures, lines = {}, ["| JPEG | pass, images/s | plain loop | ratio | one core feeds |"]
    lines.append("|---|---|---|---|---|")
    for size, (count, unit) in SIZES.items():
        images = [photo(seed, size) for seed in range(DIFFERENT)]
        with tempfile.TemporaryDirectory() as name, cluster() as ray:
            folder = Path(name)
            _write_shards(folder / "shards", images, count)
            whole = Pass(folder / "shards", folder, unit, ray)
            plain_count = round(count * PLAIN_SHARE)
            mine, theirs = measure_in_turns(
                PAIRS, whole.measure, partial(_measure_plain_rate, images, plain_count)
            )
        about = "x".join(map(str, size))
        figures[about] = {"pass_per_s": mine, "plain_per_s": theirs, "cores": whole.cores}
        fed = statistics.median(mine) / CORES
        needed = ", ".join(f"{name} {need / fed:.2f}" for name, need in NEEDED.items())
        cells = (
            format_spread(mine, 0),
            format_spread(theirs, 0),
            format_spread(ratios(mine, theirs)),
        )
        lines.append(f"| {about} | {' | '.join(cells)} | {fed:.0f}/s; cores: {needed} |")
        lines.append(f"| its cores | {format_shares(average(whole.cores))} | | | |")
    record("feed_rate", figures, "\n".join(lines))


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    return [
        Goal(
            f"feed rate over the plain loop's, {size}",
            compute_median_ratio(rates["pass_per_s"], rates["plain_per_s"]),
            0.8,
        )
        for size, rates in figures.items()
    ]


if __name__ == "__main__":
    main()
