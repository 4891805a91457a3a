"""`--plan`: a sample of the input through the real flow, and what that means for all of it."""

import json
import time
from dataclasses import asdict, dataclass

import pyarrow as pa

from s4v_core import storage
from s4v_core.captioning.checks import CheckedJob, check_job
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.pass_flow import PassFlow, index_input
from s4v_core.records import plan, units

SAMPLE_IMAGES = 256
SAMPLE_UNIT = 16
"""Small units: the rate is taken between the first and the last of them."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What captioning the whole input will take.

    Attributes:
        images_per_s: Of all engines together, after their start.
        start_s: From the first task to the first durable captions: mostly the engine's start.
        output_mb: Of all units' files, in 10^6 bytes.
    """

    images: int
    sampled: int
    engines: int
    images_per_s: float
    start_s: float
    hours: float
    engine_days: float
    output_mb: float
    bound_by: str
    ms_per_image: dict[str, float]

    def as_text(self) -> str:
        stages = ", ".join(f"{name} {ms:g}" for name, ms in self.ms_per_image.items())
        return (
            f"{self.images} images at {self.images_per_s:.3g} images/s on {self.engines} engines: "
            f"{self.hours:.2f} hours, {self.engine_days:.2f} engine-days, {self.output_mb:.1f} MB\n"
            f"measured on {self.sampled} of them, after a start of {self.start_s:.0f} s; bound by "
            f"{self.bound_by}; ms per image: {stages}"
        )


def forecast(job: CaptionJob) -> Forecast:
    """Run a sample below OUTPUT/forecast and scale it up; plan.json lies there afterwards.

    Raises:
        ConfigError, InputError: As for the pass.
    """
    job = job.replace(output=storage.absolute(job.output), plan=False)
    checked = check_job(job)
    tables, _ = index_input(checked)
    rows = pa.concat_tables(tables)
    sample = _sample(rows, SAMPLE_IMAGES)
    folder = storage.join(job.output, "forecast", f"{time.time_ns()}")
    head, table = plan.build_plan(
        [sample], [], checked.settings, checked.listing_digest, unit_size=SAMPLE_UNIT
    )
    head = plan.write_plan(folder, head, table)
    done = _measured(checked, job.replace(output=folder), head, rows.num_rows)
    text = json.dumps(asdict(done), indent=2)
    storage.replace(storage.join(job.output, "forecast", "plan.json"), text.encode())
    return done


def _sample(rows: pa.Table, count: int) -> pa.Table:
    """Rows at even distances over the whole input."""
    if rows.num_rows <= count:
        return rows
    return rows.take([at * rows.num_rows // count for at in range(count)])


def _measured(checked: CheckedJob, job: CaptionJob, head: plan.PlanHead, images: int) -> Forecast:
    started = time.monotonic()
    arrivals: list[tuple[float, int]] = []
    flow = PassFlow(checked, head, "forecast", job.output)
    for done in flow.run(list(range(len(head.unit_rows))), "sampling"):
        arrivals.append((time.monotonic(), done.rows))
    # Units that arrive together with the first were made while it was.
    first, last = arrivals[0][0], arrivals[-1][0]
    later = sum(rows for at, rows in arrivals if at > first)
    rate = later / (last - first) if later else head.images / (last - started)
    files = storage.list_files(units.captions_folder(job.output))
    per_image = sum(file.size for file in files) / head.images
    hours = images / rate / 3600
    return Forecast(
        images=images,
        sampled=head.images,
        engines=job.engines,
        images_per_s=rate,
        start_s=first - started,
        hours=hours,
        engine_days=hours * job.engines / 24,
        output_mb=per_image * images / 1e6,
        bound_by=flow.bound_by,
        ms_per_image=flow.times.ms_per_image(),
    )
