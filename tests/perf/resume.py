"""Resuming with 1.2 million rows done: time until the first new image, and memory.

python -m tests.perf.resume

A resumed run must not spend minutes on indexing, listing or reading what is done. The output holds
all units of 240 shards except one, with rows that a real pass wrote; it is compared with an empty
output and an input of the 256 images of that one unit. Both measure `caption.py` with the fake
engine on a running Ray, from its start until the file of that unit exists. Memory is the peak of
the driver up to that moment, as counted by the kernel.
Read the differences. Goal: at most 30 s more, at most 1 GB more. The lower rows show the same,
measured once, at the end of the process, when it has counted all rows and written the report; they
have no goal.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core.inputs.digest import digest_listing
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import INDEX_SCHEMA
from s4v_core.inputs.shards import Shard
from s4v_core.interrupts import TERMINATED
from s4v_core.records import plan
from s4v_core.records.captions import caption_units
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.schemas import UNIT_SIZE
from tests.perf.measuring import Goal, format_spread, measure_in_turns, record
from tests.perf.passes import Cluster, caption, cluster, run_pass_process, write_shards

IMAGES, PAIRS = 1_200_000, 5
NAMES = {
    "first_s": "first new image, s",
    "first_mib": "driver then, MiB",
    "end_s": "end of the process, s",
    "end_mib": "driver's peak, MiB",
}
GOALS = {"first_s": 30, "first_mib": 1000**3 / 2**20}
POLL_S = 0.02
WRITERS = 8


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds since the start of a process, and its peak memory until then."""

    s: float
    mib: float


class Start:
    """A pass that has one unit to do.

    Attributes:
        first: The moment at which the unit was done, for each measurement.
        end: The moment at which the process of the last measurement ended by itself.
    """

    def __init__(self, shards: Path, output: Path, unit: int, inside: Cluster, done: bool) -> None:
        self._shards, self._output, self._inside, self._done = shards, output, inside, done
        self._file = Path(caption_units(str(output)).uri(unit))
        self.first: list[Moment] = []
        self.end = Moment(0, 0)

    def measure(self, to_the_end: bool = False) -> float:
        """Return seconds to the first new image; then terminate the process or await its end."""
        output = self._output
        if self._done:
            self._file.unlink(missing_ok=True)
        else:  # a new output each time
            output = self._output.with_name(f"{self._output.name}-{len(self.first)}")
        file = output / self._file.relative_to(self._output)
        started = time.monotonic()
        with run_pass_process(self._shards, output, inside=self._inside) as process:
            mib = _wait_and_read_peak(process, file)
            first = Moment(time.monotonic() - started, mib)
            if to_the_end:
                mib = max(_wait_and_read_peak(process), mib)
                self.end = Moment(time.monotonic() - started, mib)
            else:
                process.terminate()
            _, complaints = process.communicate()
        assert process.returncode in (0, TERMINATED), complaints[-3000:]
        self.first.append(first)
        return first.s


def _wait_and_read_peak(process: subprocess.Popen[str], file: Path | None = None) -> float:
    """Wait for a file or for the end; return the peak memory of the process in MiB."""
    mib = 0.0
    while process.poll() is None and not (file and file.exists()):
        mib = _read_peak_mib(process.pid) or mib
        time.sleep(POLL_S)
    assert file is None or file.exists(), process.communicate()[1][-3000:]
    return mib


def _read_peak_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def main() -> None:
    """Run the benchmark, for about two minutes on two cores."""
    with tempfile.TemporaryDirectory() as name, cluster() as ray:
        folder = Path(name)
        write_shards(folder / "shards", IMAGES)
        write_shards(folder / "one unit", UNIT_SIZE)
        caption(folder / "shards" / "00000.tar", folder / "template", inside=ray, look=False)
        shards = find_shards([str(folder / "shards")])
        missing = _write_finished_run(folder / "template", shards, folder / "done")
        resumed = Start(folder / "shards", folder / "done", missing, ray, done=True)
        empty = Start(folder / "one unit", folder / "empty", 0, ray, done=False)
        measure_in_turns(PAIRS - 1, resumed.measure, empty.measure)
        measure_in_turns(1, partial(resumed.measure, True), partial(empty.measure, True))
        account = caption_units(str(folder / "done")).read_account(missing)
        assert account.ok == account.rows == UNIT_SIZE
    _record(resumed, empty)


def _write_finished_run(template: Path, shards: list[Shard], output: Path) -> int:
    """Write a finished run, repeating the template's rows of one shard for each shard.

    Returns:
        The number of the last full unit.
    """
    head = plan.read_plan_head(str(template))
    assert head is not None
    rows = pq.read_table(template / plan.PLAN_NAME).select(INDEX_SCHEMA.names)
    made = [
        caption_units(str(template)).read(unit)
        for unit in sorted(caption_units(str(template)).list_done())
    ]
    tables = [_move_to_shard(rows, shard).cast(INDEX_SCHEMA) for shard in shards]
    accounts = [head.inputs[0] | {"uri": shard.uri, "name": shard.name} for shard in shards]
    listing = digest_listing(shards)
    counts = [table.num_rows for table in tables]
    new = build_head(counts, accounts, head.settings, listing, kind=head.kind, key=head.key)
    new = write_plan(str(output), new, tables)

    def commit(unit: int) -> None:
        number, at = divmod(unit, len(made))
        rows = _move_to_shard(made[at], shards[number])
        caption_units(str(output)).commit(unit, new.digest, "before", rows)

    with ThreadPoolExecutor(WRITERS) as pool:  # the threads mostly wait for the disk
        list(pool.map(commit, range(len(shards) * len(made))))
    assert new.rows == rows.num_rows * len(shards)
    return max(u for u, rows in enumerate(new.unit_rows) if rows == UNIT_SIZE)


def _move_to_shard(rows: pa.Table, shard: Shard) -> pa.Table:
    """Copy rows to a shard with the same images and another name."""
    keys = (name.rpartition("/")[2] for name in rows["image_id"].to_pylist())
    there: dict[str, list[Any]] = {
        "image_id": [f"{shard.name}/{key}" for key in keys],
        "uri": [shard.uri] * rows.num_rows,
    }
    for name, values in there.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, pa.string()))
    return rows


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    return [
        Goal(
            f"more with {IMAGES:,} rows done: {NAMES[name]}",
            _compute_difference(*figures[name]),
            most,
            False,
        )
        for name, most in GOALS.items()
    ]


def _compute_difference(mine: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(mine) - statistics.median(theirs)


def _record(resumed: Start, empty: Start) -> None:
    sides = (resumed, empty)
    figures = {
        "first_s": [[moment.s for moment in side.first] for side in sides],
        "first_mib": [[moment.mib for moment in side.first] for side in sides],
        "end_s": [[side.end.s] for side in sides],
        "end_mib": [[side.end.mib] for side in sides],
    }
    lines = [
        f"| {IMAGES:,} rows done | resumed | empty output | more | goal |",
        "|---|---|---|---|---|",
    ]
    for name, (mine, theirs) in figures.items():
        goal = f"{GOALS[name]:.0f}" if name in GOALS else ""
        more = f"{_compute_difference(mine, theirs):.1f}"
        cells = (NAMES[name], format_spread(mine, 1), format_spread(theirs, 1), more, goal)
        lines.append(f"| {' | '.join(cells)} |")
    record("resume", figures, "\n".join(lines))


if __name__ == "__main__":
    main()
