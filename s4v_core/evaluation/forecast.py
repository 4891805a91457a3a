"""`--plan`: a sample of the questions through the real flow, and what it means for all of them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.evaluation.asking import CheckedEvaluation, list_rows, plan_evaluation
from s4v_core.runs.driver import FlowDriver
from s4v_core.runs.status import describe_duration

_SAMPLE_PER_ENGINE = 128
_SAMPLE_UNITS = 8
_NAME = "forecast.json"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Time and cost of asking all questions.

    Attributes:
        questions: Number of questions by benchmark.
        missing: Images that are not there, by benchmark.
        sampled: Questions of the sample.
        answers_per_s: Rate of all engines together, after their start.
        start_s: Seconds until the first answers: mostly engine start.
        cost: In the currency of the price per hour and engine, if one was given.
    """

    questions: dict[str, int]
    missing: dict[str, int]
    sampled: int
    engines: int
    answers_per_s: float
    start_s: float
    total_s: float
    bound_by: str
    cost: float | None

    def as_text(self) -> str:
        """For people."""
        cost = f", cost {self.cost:,.2f}" if self.cost is not None else ""
        total = sum(self.questions.values())
        lines = [
            f"{total:,} questions at {self.answers_per_s:.3g} answers/s on {self.engines} engines: "
            f"{describe_duration(self.total_s)} in all, of it "
            f"{describe_duration(self.start_s)} engine start{cost}",
            f"  measured on {self.sampled} questions; bound by {self.bound_by}",
        ]
        for name, count in self.questions.items():
            lost = self.missing.get(name, 0)
            missing = f", {lost:,} images missing" if lost else ""
            lines.append(f"  {name}: {count:,} questions{missing}")
        return "\n".join(lines)


def make_forecast(checked: CheckedEvaluation) -> Forecast:
    """Ask a sample in a folder of its own below the output, and scale it up.

    OUTPUT/forecast.json holds the result.

    Raises:
        StorageError: Not one unit of the sample came out.
    """
    job = checked.job
    folder = storage.join(job.output, f".forecast-{time.time_ns()}")
    sampling = replace(checked, job=job.replace(output=folder, plan=False))
    try:
        rows = list_rows(sampling)
        found = _measure(sampling, rows)
    finally:
        storage.remove(folder)
    storage.replace_json(storage.join(job.output, _NAME), asdict(found))
    return found


def _measure(checked: CheckedEvaluation, rows: Sequence[dict[str, Any]]) -> Forecast:
    job = checked.job
    count = min(_SAMPLE_PER_ENGINE * job.engines, len(rows))
    sample = [rows[at * len(rows) // count] for at in range(count)]
    unit_size = max(-(-count // _SAMPLE_UNITS), 1)
    run = replace(plan_evaluation(checked, sample, job.output, unit_size), label="sampling")
    driver, started = FlowDriver(run, "forecast"), time.monotonic()
    arrivals = [(time.monotonic(), done.rows) for done in driver.run_units(list(run.head.units))]
    if not arrivals:
        raise StorageError(job.output, "not one unit of the sample was answered")
    start_s, spread_s = arrivals[0][0] - started, arrivals[-1][0] - arrivals[0][0]
    later = sum(rows for _, rows in arrivals[1:])
    # A sample of one unit tells no rate but that of its beginning.
    rate = later / spread_s if later and spread_s > 0 else count / max(start_s, 1e-3)
    total_s = start_s + len(rows) / rate
    price = job.price_per_hour
    missing = Counter(row["source"] for row in rows if row["problem"])
    return Forecast(
        questions=dict(Counter(row["source"] for row in rows)),
        missing=dict(missing),
        sampled=count,
        engines=job.engines,
        answers_per_s=rate,
        start_s=start_s,
        total_s=total_s,
        bound_by=driver.bound_by,
        cost=None if price is None else price * job.engines * total_s / 3600,
    )
