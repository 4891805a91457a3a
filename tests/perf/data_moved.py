"""What an image costs the object store, and what a pass holds in memory however long it is.

python -m tests.perf.data_moved

Pixels travel from the tasks that decode to the engine through Ray's object store, and nothing
larger may: pictures that ride along with every row multiply the traffic, and what grows with the
number of images ends a long run. The fake engine answers at once, so that all of it is in motion.
The first table has the bytes of all objects that the store held during a pass over photographs, by
image (rows, accounts and the index are among them; what Ray sends inside its messages is not).
Goal: at most 1.2 times the larger of the JPEG and the 336-pixel image, of 338,688 bytes.
The second has peaks of memory over whole passes over tiny images, looked at every second: RSS of
the driver, of all others what is theirs alone, and the object store. Goal: flat, so read the last
line; 1.00 is the same for ten times the images.
"""

import tempfile
from pathlib import Path
from typing import Any

from tests.perf.measuring import record
from tests.perf.passes import HOLDERS, Cluster, Ran, caption, cluster, write_shards

PHOTOGRAPHS, SIZE = 5000, (640, 480)
COUNTS = (10_000, 100_000)
SHOWN = 336 * 336 * 3
GOAL = 1.2


def main() -> None:
    """Runs for about six minutes on two cores."""
    with tempfile.TemporaryDirectory() as name, cluster() as ray:
        moved, jpeg = _moved(Path(name), ray)
        passes = {count: _pass(Path(name), count, ray) for count in COUNTS}
    peaks = {
        count: {holder: ran.peak(holder) for holder in HOLDERS} for count, ran in passes.items()
    }
    rates = {count: count / ran.wall_s for count, ran in passes.items()}
    figures: dict[str, Any] = {"moved_per_image": moved, "jpeg": jpeg, "images_per_s": rates}
    figures["peak_mib"] = peaks
    record("data_moved", figures, f"{_moved_table(moved, jpeg)}\n\n{_peaks_table(peaks, rates)}")


def _moved(folder: Path, ray: Cluster) -> tuple[float, float]:
    """Bytes of an image that the store held, and of its JPEG."""
    write_shards(folder / "photographs", PHOTOGRAPHS, SIZE)
    before = ray.created_bytes()
    caption(folder / "photographs", folder / "moved", inside=ray)
    stored = sum(path.stat().st_size for path in (folder / "photographs").iterdir())
    return (ray.created_bytes() - before) / PHOTOGRAPHS, stored / PHOTOGRAPHS


def _pass(folder: Path, count: int, ray: Cluster) -> Ran:
    write_shards(folder / f"tiny-{count}", count)
    return caption(folder / f"tiny-{count}", folder / f"out-{count}", inside=ray)


def _moved_table(moved: float, jpeg: float) -> str:
    size = "x".join(map(str, SIZE))
    lines = [f"| {size} JPEG in its shard | through the store | times the larger | goal |"]
    lines += ["|---|---|---|---|"]
    times = moved / max(jpeg, SHOWN)
    lines += [f"| {jpeg:,.0f} bytes | {moved:,.0f} bytes | {times:.3f} | {GOAL} |"]
    return "\n".join(lines)


def _peaks_table(peaks: dict[int, dict[str, float]], rates: dict[int, float]) -> str:
    lines = [f"| images | {', MiB | '.join(HOLDERS)}, MiB | images/s, start included |"]
    lines += ["|---" * (len(HOLDERS) + 2) + "|"]
    for count, mib in peaks.items():
        cells = " | ".join(f"{mib[holder]:,.0f}" for holder in HOLDERS)
        lines += [f"| {count:,} | {cells} | {rates[count]:.0f} |"]
    least, most = (peaks[count] for count in COUNTS)
    times = " | ".join(f"{most[holder] / max(least[holder], 1):.2f}" for holder in HOLDERS)
    return "\n".join([*lines, f"| ratio | {times} | |"])


if __name__ == "__main__":
    main()
