"""Bytes that each image moves through Ray's object store.

python -m tests.perf.data_moved

Pixels travel from the decoding tasks to the engine through Ray's object store, and nothing larger
should: whole pictures attached to every row would multiply the traffic. The table shows the bytes
of all objects that the store ever held during a pass over photographs with the fake engine, divided
by the number of images. Rows, accounts and the index are included; data that Ray sends inside its
messages is not. Goal: at most 1.2 times the larger of the JPEG and the 336-pixel image of 338,688
bytes. The benchmark whole_run measures the memory of a pass.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.perf.measuring import Goal, record
from tests.perf.passes import Cluster, caption, cluster, write_shards

PHOTOGRAPHS, SIZE = 5000, (640, 480)
SHOWN = 336 * 336 * 3
GOAL = 1.2


def main() -> None:
    """Run the benchmark, for about a minute on two cores."""
    with tempfile.TemporaryDirectory() as name, cluster() as ray:
        moved, jpeg = _measure_bytes(Path(name), ray)
    figures = {"moved_per_image": moved, "jpeg": jpeg}
    record("data_moved", figures, _build_table(moved, jpeg))


def _measure_bytes(folder: Path, ray: Cluster) -> tuple[float, float]:
    """Measure the bytes per image that the store held, and those of its JPEG."""
    write_shards(folder / "photographs", PHOTOGRAPHS, SIZE)
    before = ray.created_bytes()
    caption(folder / "photographs", folder / "moved", inside=ray)
    stored = sum(path.stat().st_size for path in (folder / "photographs").iterdir())
    return (ray.created_bytes() - before) / PHOTOGRAPHS, stored / PHOTOGRAPHS


def _build_table(moved: float, jpeg: float) -> str:
    size = "x".join(map(str, SIZE))
    lines = [f"| {size} JPEG in its shard | through the store | times the larger | goal |"]
    lines += ["|---|---|---|---|"]
    times = _compute_factor(moved, jpeg)
    lines += [f"| {jpeg:,.0f} bytes | {moved:,.0f} bytes | {times:.3f} | {GOAL} |"]
    return "\n".join(lines)


def _compute_factor(moved: float, jpeg: float) -> float:
    return moved / max(jpeg, SHOWN)


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    times = _compute_factor(figures["moved_per_image"], figures["jpeg"])
    return [Goal("bytes moved over those of the picture", times, GOAL, False)]


if __name__ == "__main__":
    main()
