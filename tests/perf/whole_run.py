"""Whole runs with the fake engine: do rate and memory stay the same, however long a run is?

python -m tests.perf.whole_run [--images 1200000]

Costs that grow with a run show only late: a listing per unit, a list that is never emptied, a plan
that is read again and again. The shards hold generated tiny images, and the engine answers at once,
so that everything around it runs at full speed. First comes a run of 10,000 images, then
`caption.py --plan` for the many images, then their run. Memory is sampled every second: RSS of the
driver, private memory of all other processes, and the object store.
Compare the tenths of a run, which have equally many rows: rows/s and peaks of memory must be the
same in the last as in the second (the first contains all starts). The goal for the rate compares
the medians of both halves, because single tenths vary. Files: one for each unit and nothing left
over; sizes are the least, the median and the greatest. Planned and found must agree within 15 %.
The last table compares the peaks of runs of different lengths.
Without `--images` the benchmark takes 1.2 million images, an hour on two slow cores; `make bench`
takes 100,000. Results for other numbers of images stay in the tables.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from s4v_core.records import plan
from s4v_core.records.captions import caption_units
from tests.flow.oracle import compare_with_plan
from tests.perf.measuring import Goal, read_record, record
from tests.perf.passes import HOLDERS, SHARD, Cluster, PassResult, caption, cluster, write_shards

FEW, MANY, ALL = 10_000, 100_000, 1_200_000
TENTHS = 10


def main(images: int = MANY) -> None:
    """Run the benchmark, for about a minute per 20,000 images on two cores."""
    found = read_record("whole_run")
    with tempfile.TemporaryDirectory() as name, cluster() as ray:
        for count in (FEW, images):
            found[str(count)] = _run(Path(name) / str(count), count, ray, planned=count != FEW)
    counts = sorted(map(int, found))
    tables = [_build_table(count, found[str(count)]) for count in counts if count != FEW]
    tables.append(_build_peaks_table({count: found[str(count)] for count in counts}))
    record("whole_run", found, "\n\n".join(tables))


def _run(folder: Path, images: int, ray: Cluster, planned: bool) -> dict[str, Any]:
    shards, output = folder / "shards", folder / "out"
    write_shards(
        shards, images, different=SHARD
    )  # different images, because equal rows would compress better
    if planned:
        caption(shards, output, "--plan", inside=ray)
    ran = caption(shards, output, inside=ray)
    _prove(output, images)
    ends = _find_tenths(output)
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "wall_s": ran.wall_s,
        "rows_per_s": _compute_rates(ends),
        "mib": {holder: _find_peaks(ran, ends, holder) for holder in HOLDERS},
        "peak_mib": {holder: ran.peak(holder) for holder in HOLDERS},
        "after": _measure_end(ran, ends[-1][0]),
        "files": _measure_files(output),
    }
    return found | ({"forecast": compare_with_plan(output)} if planned else {})


def _prove(output: Path, images: int) -> None:
    """Check that each image has one row and a caption, and that no partial file is left."""
    assert [path.name for path in output.iterdir() if path.is_dir()] == ["captions"]
    files = list((output / "captions").iterdir())
    head = plan.read_plan_head(str(output))
    assert head is not None
    assert len(files) == len(head.unit_rows), (len(files), len(head.unit_rows))
    rows = pq.read_table(output / "captions", columns=["image_id", "status"])
    assert rows.num_rows == len(pc.unique(rows["image_id"])) == images
    assert pc.unique(rows["status"]).to_pylist() == ["ok"]


def _find_tenths(output: Path) -> list[tuple[float, int]]:
    """Commit times of the first unit and of each tenth of the rows, with the rows until then."""
    head = plan.read_plan_head(str(output))
    assert head is not None
    times = caption_units(str(output)).list_commit_times()
    ends: list[tuple[float, int]] = []
    rows = 0
    for unit in sorted(times, key=times.__getitem__):
        rows += head.unit_rows[unit]
        if not ends or rows >= len(ends) * head.rows / TENTHS:
            ends.append((times[unit], rows))
    return ends


def _compute_rates(ends: list[tuple[float, int]]) -> list[float]:
    """Compute the rows per second of each tenth."""
    return [
        (rows - before) / (at - since) for (since, before), (at, rows) in itertools.pairwise(ends)
    ]


def _find_peaks(ran: PassResult, ends: list[tuple[float, int]], holder: str) -> list[float]:
    """Find the peak memory of a holder in each tenth, in MiB."""
    return [
        max((held.mib[holder] for held in ran.held if since < held.at <= at), default=0.0)
        for (since, _), (at, _) in itertools.pairwise(ends)
    ]


def _measure_end(ran: PassResult, last: float) -> dict[str, float]:
    """Measure counting and report: seconds, and the peak memory of the driver."""
    later = [held.mib["driver"] for held in ran.held if held.at > last]
    return {"s": ran.ended_at - last, "driver_mib": max(later, default=0.0)}


def _measure_files(output: Path) -> dict[str, Any]:
    """Measure the sizes of the files that a run leaves, units apart from the rest."""
    captions = output / "captions"
    sizes = sorted(path.stat().st_size for path in captions.iterdir())
    rest = {path.name: path.stat().st_size for path in output.iterdir() if path.is_file()}
    return {
        "units": len(sizes),
        "sizes": [sizes[0], statistics.median(sizes), sizes[-1]],
        "rest": rest,
    }


def _build_table(images: int, found: dict[str, Any]) -> str:
    rates, after, files = found["rows_per_s"], found["after"], found["files"]
    lines = [f"| {images:,} images, {found['date']} | by tenth | last to second |", "|---|---|---|"]
    series = {"rows/s": rates} | {f"{holder}, MiB": found["mib"][holder] for holder in HOLDERS}
    for name, values in series.items():
        cells = " ".join(f"{value:.0f}" for value in values)
        lines.append(f"| {name} | {cells} | {values[-1] / max(values[1], 1):.2f} |")
    for name, (planned, was) in found["forecast"].items():
        lines.append(
            f"| planned, and found, {name} | {planned:.1f}, {was:.1f} | {was / planned - 1:+.1%} |"
        )
    sizes = ", ".join(f"{size / 1000:.0f}" for size in files["sizes"])
    rest = ", ".join(f"{name} {size / 1000:.0f}" for name, size in sorted(files["rest"].items()))
    lines.append(f"| files of units | {files['units']:,}, of {sizes} kB | |")
    lines.append(f"| other files, kB | {rest} | |")
    lines.append(
        f"| count and report, s | {after['s']:.0f} | driver {after['driver_mib']:.0f} MiB |"
    )
    return "\n".join(lines)


def _build_peaks_table(found: dict[int, dict[str, Any]]) -> str:
    lines = [f"| images | {', MiB | '.join(HOLDERS)}, MiB | images/s, start included |"]
    lines += ["|---" * (len(HOLDERS) + 2) + "|"]
    for count, run in found.items():
        cells = " | ".join(f"{run['peak_mib'][holder]:,.0f}" for holder in HOLDERS)
        lines.append(f"| {count:,} | {cells} | {count / run['wall_s']:.0f} |")
    return "\n".join(lines)


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    """The goals of all runs except the short one."""
    many = {int(count): run for count, run in figures.items() if int(count) != FEW}
    return [goal for count in sorted(many) for goal in _build_goals(f"{count:,} rows", many[count])]


def _build_goals(title: str, run: Mapping[str, Any]) -> list[Goal]:
    rates, half = run["rows_per_s"], TENTHS // 2
    # The first tenth contains all starts.
    kept = statistics.median(rates[half:]) / statistics.median(rates[1:half])
    held = [sum(tenth) for tenth in zip(*run["mib"].values(), strict=True)]
    apart = {name: abs(was / planned - 1) for name, (planned, was) in run["forecast"].items()}
    return [
        Goal(f"{title}: rows/s of the second half over the first", kept, 0.9),
        Goal(f"{title}: memory of the last tenth over the second", held[-1] / held[1], 1.1, False),
        *(
            Goal(f"{title}: {name} beside the plan", gap, 0.15, False)
            for name, gap in apart.items()
        ),
    ]


def _parse_images() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=ALL)
    return int(parser.parse_args().images)


if __name__ == "__main__":
    main(_parse_images())
