"""`--plan`: a sample of the input through the real flow, and what that means for all of it."""

import json
import math
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from s4v_core import storage
from s4v_core.captioning.checks import CheckedJob, check_job
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.requests import CPU_SEQUENCES
from s4v_core.errors import StorageError
from s4v_core.records import plan, units
from s4v_core.runs.driver import PassFlow, index_input
from s4v_core.runs.figures import stages_text
from s4v_core.runs.status import duration

FORECAST_NAME = "plan.json"
SAMPLE_UNITS = 16
SAMPLE_PER_SLOT = 4
"""Images of the sample per caption that engines generate at the same time: they must be full for
most of it."""

LEAST_SAMPLE = 256
LEAST_SAMPLE_S, MOST_LARGER = 20.0, 16
"""What ends sooner says more of its own start than of a run of hours: it is measured again, on so
many times as many images at most."""

COUNTS = (1, 4, 8, 16, 32, 64)
"""Numbers of engines that hours are told for."""

ROW_BYTES = 700
"""Of a result row in its file, where no sample was captioned (256 rows: 0.1 to 0.15 MB)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What captioning the whole input will take.

    Attributes:
        images: Of the whole input.
        sampled: Of them, the ones that were captioned; 0 where a rate was given.
        images_per_s: Of all engines together, after their start.
        index_s: Reading the structure of all shards; it was measured whole.
        start_s: From the first task to the first durable captions: mostly the engine's start.
        total_s: Of the run to come, index and start included.
        output_mb: Of all units' files, in 10^6 bytes.
        object_store_mb: Pixels that wait between decoding and engines.
        decode_cores: CPU cores that reading and decoding keep busy at this rate.
        ok_share: Of the sample's rows; the rest would be rejected or errors.
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
        lines = [
            f"{self.images:,} images at {self.images_per_s:.3g} images/s on {self.engines} "
            f"engines: {duration(self.total_s)} in all, {self.engine_days:.2f} engine-days{cost}",
            f"  of it {duration(self.index_s)} indexing, {duration(self.start_s)} engine start",
            f"  captions: {self.output_mb:,.1f} MB; object store: {self.object_store_mb:,.0f} MB; "
            f"{self.decode_cores:.1f} CPU cores to read and decode",
        ]
        if self.sampled:
            lines += [
                f"  measured on {self.sampled} images; bound by {self.bound_by}; "
                + stages_text(self.ms_per_image),
                f"  tokens: {self.prompt_tokens:.0f} of prompt, {self.output_tokens:.0f} of "
                f"caption (longest {self.longest_output_tokens}); {self.attempts:.2f} attempts "
                f"an image; {self.ok_share:.1%} ok",
            ]
        lines.append("  " + self._by_engines())
        return "\n".join(lines)

    def _by_engines(self) -> str:
        per_engine = self.images_per_s / self.engines
        hours = (
            f"{count}: {duration(self.images / per_engine / count + self.start_s)}"
            for count in COUNTS
        )
        return f"by number of engines, where nothing else bounds it: {', '.join(hours)}"


def forecast(job: CaptionJob) -> Forecast:
    """Run a sample in a folder of its own below the output and scale it up; OUTPUT/plan.json lies
    there afterwards, and the run to come compares itself with it.

    Raises:
        ConfigError, InputError: As for the pass.
        StorageError: Not one unit of the sample came out.
    """
    job = job.replace(output=storage.absolute(job.output), plan=False)
    checked = check_job(job)
    started = time.monotonic()
    tables, _ = index_input(checked)
    index_s = time.monotonic() - started
    found = (
        _given(checked, tables, index_s, job.rate)
        if job.rate
        else _sampled(checked, tables, index_s)
    )
    storage.replace_json(storage.join(job.output, FORECAST_NAME), asdict(found))
    return found


def read_forecast(output: str) -> dict[str, Any] | None:
    """The figures of the plan that was made for a run, if one was."""
    uri = storage.join(output, FORECAST_NAME)
    if storage.stat(uri) is None:
        return None
    found: dict[str, Any] = json.loads(storage.read(uri))
    return found


def _sampled(checked: CheckedJob, tables: list[pa.Table], index_s: float) -> Forecast:
    rows, count = pa.concat_tables(tables), _sample_size(checked)
    while True:
        found, took_s = _of_sample(checked, _spread(rows, count), tables, index_s)
        if took_s >= LEAST_SAMPLE_S or found.sampled == rows.num_rows:
            return found
        count *= min(math.ceil(LEAST_SAMPLE_S / max(took_s, 1.0)) + 1, MOST_LARGER)


def _of_sample(
    checked: CheckedJob, sample: pa.Table, tables: list[pa.Table], index_s: float
) -> tuple[Forecast, float]:
    """And for how many seconds the sample's units came out."""
    job = checked.job
    folder = storage.join(job.output, f".forecast-{time.time_ns()}")
    unit_size = min(max(-(-sample.num_rows // SAMPLE_UNITS), 1), job.unit_size)
    head, table = plan.build_plan(
        [sample], [], checked.settings, checked.listing_digest, unit_size=unit_size
    )
    head = plan.write_plan(folder, head, table)
    try:
        return _measured(checked, job.replace(output=folder), head, tables, index_s)
    finally:
        storage.remove(folder)


def _sample_size(checked: CheckedJob) -> int:
    slots = checked.job.settings.max_num_seqs
    slots = min(slots, CPU_SEQUENCES) if checked.engine.device == "cpu" else slots
    return max(LEAST_SAMPLE, SAMPLE_PER_SLOT * slots * checked.job.engines)


def _spread(rows: pa.Table, count: int) -> pa.Table:
    """Rows at even distances over the whole input."""
    if rows.num_rows <= count:
        return rows
    return rows.take([at * rows.num_rows // count for at in range(count)])


def _measured(
    checked: CheckedJob,
    job: CaptionJob,
    head: plan.PlanHead,
    tables: list[pa.Table],
    index_s: float,
) -> tuple[Forecast, float]:
    started = time.monotonic()
    arrivals: list[tuple[float, int]] = []
    flow = PassFlow(checked, head, "forecast", job.output)
    for done in flow.run(list(range(len(head.unit_rows))), "sampling"):
        arrivals.append((time.monotonic(), done.rows))
    if not arrivals:
        raise StorageError(job.output, "not one unit of the sample was captioned")
    # Units that arrive together with the first were made while it was.
    first, last = arrivals[0][0], arrivals[-1][0]
    later = sum(rows for at, rows in arrivals if at > first)
    rate = later / (last - first) if later else head.images / (last - started)
    results = pa.concat_tables(
        units.read_unit(job.output, unit) for unit in sorted(units.done_units(job.output))
    )
    figures = flow.figures()
    ms = figures.ms_per_image
    found = _forecast(
        checked,
        _images(tables),
        rate,
        index_s,
        start_s=max(first - started - arrivals[0][1] / rate, 0.0),
        sampled=head.images,
        output_bytes=_output_bytes(results, tables, job.unit_size),
        decode_cores=rate * (ms["read"] + ms["decode"]) / 1000,
        results=results.to_pylist(),
        bound_by=figures.bound_by,
        ms_per_image=ms,
    )
    return found, last - first


def _images(tables: list[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)


def _output_bytes(results: pa.Table, tables: list[pa.Table], unit_size: int) -> float:
    """Of all units' files. Each is a footer and its rows; two sizes of the same rows tell both."""
    whole = results.slice(0, unit_size)
    half = max(whole.num_rows // 2, 1)
    sizes = units.file_bytes(whole), units.file_bytes(whole.slice(0, half))
    per_row = (sizes[0] - sizes[1]) / max(whole.num_rows - half, 1)
    footer = max(sizes[0] - per_row * whole.num_rows, 0.0)
    files = sum(-(-table.num_rows // unit_size) for table in tables)
    return footer * files + per_row * _images(tables)


def _given(checked: CheckedJob, tables: list[pa.Table], index_s: float, rate: float) -> Forecast:
    return _forecast(checked, _images(tables), rate * checked.job.engines, index_s)


def _forecast(
    checked: CheckedJob,
    images: int,
    rate: float,
    index_s: float,
    start_s: float = 0.0,
    sampled: int = 0,
    output_bytes: float | None = None,
    decode_cores: float = 0.0,
    results: list[dict[str, Any]] | None = None,
    bound_by: str = "engine",
    ms_per_image: dict[str, float] | None = None,
) -> Forecast:
    job, results = checked.job, results or []
    whole, images = images, min(images, job.limit or images)
    total_s = index_s + start_s + images / rate
    engine_hours = (start_s + images / rate) * job.engines / 3600
    in_flight = job.engines * (job.settings.units_in_flight + 2) * job.unit_size
    pixels = 3 * checked.facts.framing.size_px**2
    return Forecast(
        images=images,
        sampled=sampled,
        engines=job.engines,
        images_per_s=rate,
        index_s=index_s,
        start_s=start_s,
        total_s=total_s,
        engine_days=engine_hours / 24,
        output_mb=(ROW_BYTES * whole if output_bytes is None else output_bytes)
        * images
        / whole
        / 1e6,
        object_store_mb=min(in_flight, images) * pixels / 1e6,
        decode_cores=decode_cores,
        prompt_tokens=_mean(results, "prompt_tokens"),
        output_tokens=_mean(results, "output_tokens"),
        longest_output_tokens=max((row["output_tokens"] or 0 for row in results), default=0),
        attempts=_mean(results, "attempts"),
        ok_share=sum(row["status"] == "ok" for row in results) / max(len(results), 1),
        bound_by=bound_by,
        ms_per_image=ms_per_image or {},
        cost=engine_hours * job.price_per_hour if job.price_per_hour is not None else None,
    )


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.fmean(values) if values else 0.0
