"""The cost of a collection and the time that it would take: from a sample, or from sizes and prices
alone."""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from s4v_core import storage
from s4v_core.captioning.caption_pass import make_task
from s4v_core.captioning.checks import CheckedJob
from s4v_core.captioning.planning import index_input, read_named
from s4v_core.collection.asked_rows import list_requests
from s4v_core.collection.checks import CheckedCollection, check_collection
from s4v_core.collection.job import CollectJob
from s4v_core.engines.choice import start_engine
from s4v_core.engines.metering import Usage, estimate_usage, read_usage
from s4v_core.engines.requests import Generation
from s4v_core.records.row_spool import RowSpool
from s4v_core.runs.status import describe_duration
from s4v_core.terminal import printable

_LOOKED_AT = 64
"""Images that are opened for their sizes when none is asked about."""

_SEED = 0


@dataclass(frozen=True, slots=True)
class CollectForecast:
    """The forecast of a collection.

    Attributes:
        by_source: Images of each source.
        asked: Images of the sample that were asked about; 0 if tokens are estimated from sizes.
        looked_at: Images that the tokens follow from; the teacher can be asked about `usable_share`
            of them.
        prompt_tokens, output_tokens: Per image.
        latency_s: Seconds of one answer; None without a sample.
        total_s: None if neither a sample nor a budget bounds the time.
        cost, sample_cost: In the currency of the prices; None without prices.
    """

    images: int
    by_source: dict[str, int]
    asked: int
    looked_at: int
    usable_share: float
    prompt_tokens: float
    output_tokens: float
    latency_s: float | None
    total_s: float | None
    bound_by: str
    cost: float | None
    sample_cost: float | None
    spending_limit: float | None
    is_batch: bool

    def as_text(self) -> str:
        """For people."""
        sources = ", ".join(f"{printable(name)} {n:,}" for name, n in self.by_source.items())
        tokens = self.prompt_tokens + self.output_tokens
        basis = (
            f"measured on {self.asked} images, which were asked about"
            if self.asked
            else f"estimated from the sizes of {self.looked_at} images; --sample 20 measures it"
        )
        prompt, output = self.prompt_tokens, self.output_tokens
        lines = [
            f"{self.images:,} images ({sources})",
            f"tokens of an image: {prompt:,.0f} of prompt and {output:,.0f} of caption, "
            f"{tokens * self.images / 1e6:,.2f} million in all ({basis})",
        ]
        if self.usable_share < 1:
            lines.append(f"{self.usable_share:.1%} of the images can be asked about")
        lines += [self._describe_cost(), self._describe_time()]
        return "\n".join(lines)

    def _describe_cost(self) -> str:
        if self.cost is None:
            return "cost: unknown; set --budget.input-price and --budget.output-price"
        line = f"cost: {self.cost:,.2f}" + (" by the Batch API" if self.is_batch else "")
        if self.sample_cost:
            line += f"; the sample cost {self.sample_cost:,.4f}"
        if self.spending_limit is not None and self.spending_limit < self.cost:
            share = self.spending_limit / self.cost
            line += f"; the spending limit of {self.spending_limit:,.2f} ends it at {share:.0%}"
        return line

    def _describe_time(self) -> str:
        if self.is_batch:
            return "time: batches are answered within a day, most of them in hours"
        if self.total_s is None:
            return "time: unknown; set --budget.requests-per-minute, or measure with --sample"
        duration = describe_duration(self.total_s)
        answer = f", an answer takes {self.latency_s:.1f} s" if self.latency_s else ""
        return f"time: {duration}, bound by {self.bound_by}{answer}"


def make_forecast(job: CollectJob) -> CollectForecast:
    """Predict tokens, cost and time; writes nothing.

    Raises:
        ConfigError, InputError: As for the run.
        EngineError: The endpoint of a sample fails.
    """
    job = job.replace(output=storage.absolute(job.output))
    collection = check_collection(job)
    with index_input(collection.checked) as (spool, _):
        rows = _read_rows(collection.checked, spool)
    sample = _choose_sample(rows, job.sample or _LOOKED_AT)
    answers = _ask(collection, sample) if job.sample else _look(collection, sample)
    return _scale_up(collection, rows, len(sample), answers)


@dataclass(frozen=True, slots=True)
class _Answered:
    """One image of the sample: its tokens, and the time that its answer took if it was asked."""

    usage: Usage
    latency_s: float | None = None


def _read_rows(checked: CheckedJob, spool: RowSpool) -> pa.Table:
    tables = [rows for _, rows in read_named(checked, spool)]
    rows = pa.concat_tables(tables)
    return rows.slice(0, checked.job.limit) if checked.job.limit else rows


def _choose_sample(rows: pa.Table, count: int) -> list[dict[str, Any]]:
    """Rows drawn from the whole input, the same every time."""
    places = sorted(random.Random(_SEED).sample(range(rows.num_rows), min(count, rows.num_rows)))
    return [row | {"unit": 0} for row in rows.take(places).to_pylist()]


def _look(collection: CheckedCollection, sample: list[dict[str, Any]]) -> list[_Answered]:
    """Tokens by the sizes of the pictures and the expected length of a caption."""
    expected = collection.job.expected_tokens
    task, found = make_task(collection.checked), list[_Answered]()
    for row in list_requests(task, sample):
        usage = estimate_usage(row.request, row.sampling)
        found.append(_Answered(replace(usage, output_tokens=expected)))
    return found


def _ask(collection: CheckedCollection, sample: list[dict[str, Any]]) -> list[_Answered]:
    """Tokens and times as the teacher's answers have them."""
    from s4v_core.flow.shared_budget import SharedBudget  # imports ray

    asked = list(list_requests(make_task(collection.checked), sample))
    engine = start_engine(collection.checked.engine, SharedBudget(collection.limits))

    async def ask_all() -> list[tuple[Generation, float]]:
        async def ask(at: int) -> tuple[Generation, float]:
            started = time.monotonic()
            answer = await engine.generate(asked[at].request, asked[at].sampling)
            return answer, time.monotonic() - started

        return list(await asyncio.gather(*map(ask, range(len(asked)))))

    found = list[_Answered]()
    for row, (answer, latency_s) in zip(asked, asyncio.run(ask_all()), strict=True):
        usage = read_usage(answer) or estimate_usage(row.request, row.sampling)
        found.append(_Answered(usage, latency_s))
    return found


def _scale_up(
    collection: CheckedCollection, rows: pa.Table, sampled: int, answers: Sequence[_Answered]
) -> CollectForecast:
    job, limits, images = collection.job, collection.limits, rows.num_rows
    prompt = statistics.fmean(one.usage.prompt_tokens for one in answers) if answers else 0.0
    output = statistics.fmean(one.usage.output_tokens for one in answers) if answers else 0.0
    usable = len(answers) / sampled if sampled else 0.0
    to_ask = images * usable
    latencies = [one.latency_s for one in answers if one.latency_s is not None]
    latency_s = statistics.fmean(latencies) if latencies else None
    total_s, bound_by = _find_time(job, to_ask, prompt + output, latency_s)
    has_prices = bool(limits.input_price or limits.output_price)
    each = (prompt * limits.input_price + output * limits.output_price) / 1e6
    return CollectForecast(
        images=images,
        by_source=dict(Counter(map(str, rows["source"].to_pylist())).most_common()),
        asked=len(answers) if job.sample else 0,
        looked_at=len(answers),
        usable_share=usable,
        prompt_tokens=prompt,
        output_tokens=output,
        latency_s=latency_s,
        total_s=total_s,
        bound_by=bound_by,
        cost=each * to_ask if has_prices else None,
        # A sample is asked one by one, for the full price.
        sample_cost=_price_sample(job, answers) if has_prices and job.sample else None,
        spending_limit=job.budget.spending,
        is_batch=job.batch.enabled,
    )


def _price_sample(job: CollectJob, answers: Sequence[_Answered]) -> float:
    prompt = sum(one.usage.prompt_tokens for one in answers)
    output = sum(one.usage.output_tokens for one in answers)
    prices = job.budget.input_price or 0.0, job.budget.output_price or 0.0
    return (prompt * prices[0] + output * prices[1]) / 1e6


def _find_time(
    job: CollectJob, images: float, tokens: float, latency_s: float | None
) -> tuple[float | None, str]:
    """Seconds for all images, and what bounds them.

    A request counts against a minute's budget until a minute after its end, so an answer's own time
    takes its share of each minute.
    """
    budget, places = job.budget, len(job.endpoint.url)
    counted_s = 60.0 + (latency_s or 0.0)
    bounds: dict[str, float] = {}
    if budget.requests_per_minute:
        rate = budget.requests_per_minute * places / counted_s
        bounds["requests per minute"] = images / rate
    if budget.tokens_per_minute:
        rate = budget.tokens_per_minute * places / counted_s
        bounds["tokens per minute"] = images * tokens / rate
    if latency_s:
        under_way = job.endpoint.concurrency * places * job.workers
        bounds["concurrency"] = images * latency_s / under_way
    if not bounds:
        return None, "nothing"
    name = max(bounds, key=lambda bound: bounds[bound])
    return bounds[name], name
