"""A run as Prometheus metrics, exported by Ray's own agents on every node."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

from s4v_core.flow.spec import STAGES, UnitDone

NAMES = (
    "s4v_rows_planned",
    "s4v_rows_done_total",
    "s4v_rows_ok_total",
    "s4v_attempts_total",
    "s4v_output_tokens_total",
    "s4v_rows_failed_total",
    "s4v_engine_starts_total",
    "s4v_engine_seconds_total",
    "s4v_engines",
    "s4v_stage_seconds_total",
    "s4v_bound_by",
)
"""Everything that is exported; dashboards may use no other name."""

_BOUNDS = ("read", "decode", "engine", "write")

_RENEW_EVERY_S = 4.0
"""Ray's agent forgets a gauge that was not set during two of its reports, 20 seconds."""

_JOIN_LIMIT_S = 1.0
"""Seconds to wait at the end for a renewal that is under way."""


class RunMetrics:
    """Counts from the driver: one series per run, whatever its nodes do.

    In a `with` block, a thread renews the gauges until the block ends, whether units come or not.
    It also advances `s4v_engine_seconds_total`: the time for which engine workers of this run have
    lived so far, summed over all of them. They report it themselves, from before they load to their
    death (see `lease`), so nodes that have not come yet do not count, and lost ones count until
    they were lost. On GPUs, one per engine, these are GPU-seconds; the time that Ray takes to start
    a worker's process is not included.
    """

    def __init__(
        self,
        run_id: str,
        kind: str,
        planned: int,
        done: int,
        engines: int,
        held_s: Callable[[], float],
        renew_every_s: float = _RENEW_EVERY_S,
    ) -> None:
        """Args:
        kind: Kind of work, the label `kind` of every series.
        done: Rows that were done before.
        held_s: Returns the engine-seconds so far; raises RayError if they cannot be had.
        """
        self._run = {"run": run_id, "kind": kind}
        self._held_s, self._renew_every_s = held_s, renew_every_s
        self._done = self._counter("s4v_rows_done_total", "Rows that are done")
        self._ok = self._counter("s4v_rows_ok_total", "Rows that are ok")
        self._attempts = self._counter("s4v_attempts_total", "Answers generated")
        self._tokens = self._counter("s4v_output_tokens_total", "Tokens in units' answers")
        self._starts = self._counter(
            "s4v_engine_starts_total", "Engines started to replace dead ones"
        )
        self._seconds = self._counter("s4v_engine_seconds_total", "Seconds that engines were alive")
        self._reasons = self._counter("s4v_rows_failed_total", "Rejected rows and errors", "reason")
        self._stages = self._counter("s4v_stage_seconds_total", "Seconds of work by stage", "stage")
        self._bound = self._gauge("s4v_bound_by", "1 for the stage that sets the pace", "stage")
        self._steady = (
            (self._gauge("s4v_rows_planned", "Rows of the plan"), planned),
            (self._gauge("s4v_engines", "Engine workers requested"), engines),
        )
        self._bound_by: str | None = None
        self._reported_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_on, daemon=True, name="metrics")
        self._begin(done)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(_JOIN_LIMIT_S)

    def add(self, done: UnitDone, bound_by: str) -> None:
        """Count a unit that is durable."""
        amounts = (
            (self._done, done.rows),
            (self._ok, done.generated_ok),
            (self._attempts, done.attempts),
            (self._tokens, done.sums.get("output_tokens", 0)),
            (self._starts, done.engine_starts),
        )
        for counter, amount in amounts:
            counter.add(amount, self._run)
        for reason, count in done.reasons:
            self._reasons.add(count, self._run | {"reason": reason})
        for stage, field in STAGES.items():
            self._stages.add(getattr(done, field), self._run | {"stage": stage})
        self._bound_by = bound_by
        self._renew()

    def _begin(self, done: int) -> None:
        """Create every series whose labels are known: a rate needs the zero that it rises from."""
        for counter in (self._ok, self._attempts, self._tokens, self._starts, self._seconds):
            counter.add(0, self._run)
        for stage in STAGES:
            self._stages.add(0, self._run | {"stage": stage})
        self._done.add(done, self._run)
        self._renew()

    def _renew_on(self) -> None:
        while not self._ended.wait(self._renew_every_s):
            self._renew()
            self._add_held()

    def _renew(self) -> None:
        for gauge, value in self._steady:
            gauge.set(value, self._run)
        for stage in _BOUNDS if self._bound_by else ():
            self._bound.set(float(stage == self._bound_by), self._run | {"stage": stage})

    def _add_held(self) -> None:
        try:
            held_s = self._held_s()
        except RayError:  # a cluster in distress: try again next time
            return
        self._seconds.add(max(held_s - self._reported_s, 0.0), self._run)
        self._reported_s = held_s

    def _counter(self, name: str, about: str, *tags: str) -> "_Count":
        return _Count(_registered(name), about, tag_keys=("run", "kind", *tags))

    def _gauge(self, name: str, about: str, *tags: str) -> Gauge:
        return Gauge(_registered(name), about, tag_keys=("run", "kind", *tags))


class _Count(Counter):  # type: ignore[misc] # Ray ships no types
    """A counter that also takes zero, which makes a series appear; Ray's `inc` refuses it."""

    def add(self, amount: float, tags: dict[str, str]) -> None:
        self._record(float(amount), tags)


def _registered(name: str) -> str:
    assert name in NAMES, name
    return name
