"""`--plan`: a sample of the input through the real flow, and what it means for the whole input."""

import math
import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from s4v_core import storage
from s4v_core.captioning.caption_pass import plan_run
from s4v_core.captioning.checks import CheckedJob, check_job
from s4v_core.captioning.forecast_file import write_forecast
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.planning import index_input, read_named
from s4v_core.engines.settings import CPU_SEQUENCES
from s4v_core.errors import StorageError
from s4v_core.flow.spec import UNITS_IN_FLIGHT
from s4v_core.inputs.indexing import INDEX_SCHEMA
from s4v_core.inputs.unique_ids import number_repeated_ids
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.records.plan import PlanHead
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.row_spool import RowSpool
from s4v_core.runs.driver import FlowDriver
from s4v_core.runs.figures import describe_stages
from s4v_core.runs.status import describe_duration

_SAMPLE_UNITS = 16
_SAMPLE_PER_SLOT = 4
"""Images of the sample per caption that engines generate at the same time: engines must be full for
most of the sample."""

LEAST_SAMPLE = 256
LEAST_SAMPLE_S, MOST_LARGER = 20.0, 16
"""A sample shorter than so many seconds is dominated by start-up; it is repeated with up to
MOST_LARGER times the images."""

_COUNTS = (1, 4, 8, 16, 32, 64)
"""Numbers of engines for which the duration is shown."""

_ROW_BYTES = 700
"""Bytes of a result row in its file, if no sample was captioned (256 rows: 0.1 to 0.15 MB)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Time, size and cost of captioning the whole input.

    Attributes:
        images: Images of the whole input.
        sampled: Images that were captioned to find out; 0 if the rate was given.
        images_per_s: Rate of all engines together, after their start.
        index_s: Seconds to read the structure of all shards; measured on all of them.
        start_s: Seconds from the first task to the first durable captions: mostly engine start.
        total_s: Seconds of the coming run, indexing and start included.
        output_mb: Size of all unit files, in 10^6 bytes.
        object_store_mb: Pixels that wait between decoding and engines, in 10^6 bytes.
        decode_cores: CPU cores that reading and decoding keep busy at this rate.
        ok_share: Share of the sample's rows that are ok; the rest would be rejected or errors.
        cost: In the currency of the price per hour and engine, if one was given.
    """

    images: int
    sampled: int
    engines: int
    images_per_s: float
    index_s: float
    start_s: float
    total_s: float
    engine_days: float
    output_mb: float
    object_store_mb: float
    decode_cores: float
    prompt_tokens: float
    output_tokens: float
    longest_output_tokens: int
    attempts: float
    ok_share: float
    bound_by: str
    ms_per_image: dict[str, float]
    cost: float | None

    def as_text(self) -> str:
        """For people."""
        cost = f", cost {self.cost:,.2f}" if self.cost is not None else ""
        index, start = describe_duration(self.index_s), describe_duration(self.start_s)
        lines = [
            f"{self.images:,} images at {self.images_per_s:.3g} images/s on {self.engines} "
            f"engines: {describe_duration(self.total_s)} in all, {self.engine_days:.2f} "
            f"engine-days{cost}",
            f"  of it {index} indexing, {start} engine start",
            f"  captions: {self.output_mb:,.1f} MB; object store: {self.object_store_mb:,.0f} MB; "
            f"{self.decode_cores:.1f} CPU cores to read and decode",
        ]
        if self.sampled:
            lines += [
                f"  measured on {self.sampled} images; bound by {self.bound_by}; "
                + describe_stages(self.ms_per_image, CAPTIONS.words),
                f"  tokens: {self.prompt_tokens:.0f} of prompt, {self.output_tokens:.0f} of "
                f"caption (longest {self.longest_output_tokens}); {self.attempts:.2f} attempts "
                f"an image; {self.ok_share:.1%} ok",
            ]
        lines.append("  " + self._describe_by_engines())
        return "\n".join(lines)

    def _describe_by_engines(self) -> str:
        per_engine = self.images_per_s / self.engines
        hours = (
            f"{count}: {describe_duration(self.images / per_engine / count + self.start_s)}"
            for count in _COUNTS
        )
        return f"by number of engines, where nothing else bounds it: {', '.join(hours)}"


@dataclass(frozen=True, slots=True)
class _Sample:
    """Measurements of a sample, or the rate that was given in its place.

    Attributes:
        spread_s: Seconds between the first and the last of its units.
        row_bytes: Bytes per row of all unit files, their footers included.
        results: Its result rows.
    """

    rate: float
    start_s: float = 0.0
    spread_s: float = 0.0
    row_bytes: float = _ROW_BYTES
    bound_by: str = "engine"
    ms_per_image: dict[str, float] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def decode_cores(self) -> float:
        busy_ms = self.ms_per_image.get("read", 0.0) + self.ms_per_image.get("decode", 0.0)
        return self.rate * busy_ms / 1000

    def mean(self, column: str) -> float:
        values = [row[column] for row in self.results if row[column] is not None]
        return statistics.fmean(values) if values else 0.0


def make_forecast(job: CaptionJob) -> Forecast:
    """Run a sample in a folder of its own below the output, and scale it up.

    OUTPUT/forecast.json holds the result; the run that follows compares itself with it.

    Raises:
        ConfigError, InputError: As for the pass.
        StorageError: Not one unit of the sample came out.
    """
    job = job.replace(output=storage.absolute(job.output), plan=False)
    checked = check_job(job)
    started = time.monotonic()
    with index_input(checked) as (spool, _):
        index_s = time.monotonic() - started
        given = _Sample(job.rate * job.engines) if job.rate else None
        sample = given or _measure_sample(checked, spool)
        found = _scale_up(checked, sum(spool.input_rows), sample, index_s)
    write_forecast(job.output, asdict(found))
    return found


def _measure_sample(checked: CheckedJob, spool: RowSpool) -> _Sample:
    count = _choose_sample_size(checked)
    while True:
        rows = spread_evenly(checked, spool, count)
        sample = _run_sample(checked, rows, spool.input_rows)
        if sample.spread_s >= LEAST_SAMPLE_S or len(sample.results) == sum(spool.input_rows):
            return sample
        count *= min(math.ceil(LEAST_SAMPLE_S / max(sample.spread_s, 1.0)) + 1, MOST_LARGER)


def _run_sample(checked: CheckedJob, rows: pa.Table, input_rows: list[int]) -> _Sample:
    job = checked.job
    folder = storage.join(job.output, f".forecast-{time.time_ns()}")
    unit_size = min(max(-(-rows.num_rows // _SAMPLE_UNITS), 1), checked.unit_size)
    head = build_head(
        [rows.num_rows],
        [],
        checked.settings,
        checked.listing_digest,
        kind=CAPTIONS.folder,
        key=CAPTIONS.key,
        unit_size=unit_size,
    )
    head = write_plan(folder, head, [rows])
    try:
        return _time_sample(checked, folder, head, input_rows)
    finally:
        storage.remove(folder)


def _choose_sample_size(checked: CheckedJob) -> int:
    slots = checked.job.settings.max_num_seqs
    slots = min(slots, CPU_SEQUENCES) if checked.engine.device == "cpu" else slots
    return max(LEAST_SAMPLE, _SAMPLE_PER_SLOT * slots * checked.job.engines)


def spread_evenly(checked: CheckedJob, spool: RowSpool, count: int) -> pa.Table:
    """`count` rows at even distances over the whole input."""
    whole, start = sum(spool.input_rows), 0
    count = min(count, whole)
    picked: list[pa.Table] = [INDEX_SCHEMA.empty_table()]
    for _, rows in read_named(checked, spool):
        end = start + rows.num_rows
        first, last = (-(-edge * count // whole) for edge in (start, end))
        places = [at * whole // count - start for at in range(first, last)]
        picked.append(rows.take(pa.array(places, pa.int64())))  # a small shard may have none
        start = end
    tables, _ = number_repeated_ids(picked)
    return pa.concat_tables(tables)


def _time_sample(
    checked: CheckedJob, folder: str, head: PlanHead, input_rows: list[int]
) -> _Sample:
    started = time.monotonic()
    arrivals: list[tuple[float, int]] = []
    run = replace(plan_run(checked, head, folder), label="sampling")
    driver = FlowDriver(run, "forecast")
    for done in driver.run_units(list(head.units)):
        arrivals.append((time.monotonic(), done.rows))
    if not arrivals:
        raise StorageError(folder, "not one unit of the sample was captioned")
    # Units that arrive at the same instant as the first say nothing about the rate.
    first, last = arrivals[0][0], arrivals[-1][0]
    later = sum(rows for at, rows in arrivals if at > first)
    rate = later / (last - first) if later else head.rows / (last - started)
    units = caption_units(folder, head.settings)
    results = pa.concat_tables(units.read(unit) for unit in sorted(units.list_done()))
    figures = driver.figures()
    return _Sample(
        rate=rate,
        start_s=max(first - started - arrivals[0][1] / rate, 0.0),
        spread_s=last - first,
        row_bytes=_measure_row_bytes(results, input_rows, checked.unit_size),
        bound_by=driver.verdict,
        ms_per_image=figures.ms_per_row,
        results=results.to_pylist(),
    )


def _measure_row_bytes(results: pa.Table, input_rows: list[int], unit_size: int) -> float:
    """Bytes per row of all unit files. Each is a footer and its rows; two sizes tell both."""
    units = caption_units("")
    whole = results.slice(0, unit_size)
    half = max(whole.num_rows // 2, 1)
    sizes = units.measure_bytes(whole), units.measure_bytes(whole.slice(0, half))
    per_row = (sizes[0] - sizes[1]) / max(whole.num_rows - half, 1)
    footer = max(sizes[0] - per_row * whole.num_rows, 0.0)
    files = sum(-(-rows // unit_size) for rows in input_rows)
    return footer * files / max(sum(input_rows), 1) + per_row


def _scale_up(checked: CheckedJob, rows: int, sample: _Sample, index_s: float) -> Forecast:
    """Args:
    rows: Images of the whole input, before any limit.
    """
    job = checked.job
    images = min(rows, job.limit or rows)
    run_s = sample.start_s + images / sample.rate
    engine_hours = run_s * job.engines / 3600
    units = checked.engine.settings.units_in_flight or UNITS_IN_FLIGHT
    in_flight = job.engines * (units + 2) * checked.unit_size
    pixels = 3 * checked.facts.framing.size_px**2
    ok = sum(row["status"] == "ok" for row in sample.results)
    return Forecast(
        images=images,
        sampled=len(sample.results),
        engines=job.engines,
        images_per_s=sample.rate,
        index_s=index_s,
        start_s=sample.start_s,
        total_s=index_s + run_s,
        engine_days=engine_hours / 24,
        output_mb=sample.row_bytes * images / 1e6,
        object_store_mb=min(in_flight, images) * pixels / 1e6,
        decode_cores=sample.decode_cores,
        prompt_tokens=sample.mean("prompt_tokens"),
        output_tokens=sample.mean("output_tokens"),
        longest_output_tokens=max((row["output_tokens"] or 0 for row in sample.results), default=0),
        attempts=sample.mean("attempts"),
        ok_share=ok / max(len(sample.results), 1),
        bound_by=sample.bound_by,
        ms_per_image=sample.ms_per_image,
        cost=engine_hours * job.price_per_hour if job.price_per_hour is not None else None,
    )
