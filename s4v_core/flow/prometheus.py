"""A pass in Prometheus's terms, exported by Ray's own agents on every node."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

from s4v_core.flow.spec import STAGES, UnitDone

NAMES = (
    "s4v_images_planned",
    "s4v_images_done_total",
    "s4v_captions_ok_total",
    "s4v_attempts_total",
    "s4v_output_tokens_total",
    "s4v_images_without_caption_total",
    "s4v_engine_starts_total",
    "s4v_engine_seconds_total",
    "s4v_engines",
    "s4v_stage_seconds_total",
    "s4v_bound_by",
)
"""Everything that is exported; dashboards may use no other name."""

BOUNDS = ("read", "decode", "engine", "write")

RENEW_EVERY_S = 4.0
"""Ray's agent forgets a gauge that nobody has set for two of its reports, 20 seconds."""

LAST_WORD_S = 1.0
"""A renewal that is under way when the pass ends is not waited for any longer."""


class PassMetrics:
    """Counts from the driver: one series per run, whatever its nodes do.

    In a `with` block, gauges are renewed by a thread until its end, whether units come or not.
    `s4v_engine_seconds_total` grows there, too: the time for which engine actors of this run have
    lived so far, added up over all of them. They tell it themselves, from before they load to their
    death (see `tenure`), so that nodes that are still to come do not count, and ones that are lost
    count until then. On GPUs, where an engine has one, these are GPU-seconds; what Ray takes to
    start an actor's process is not among them.
    """

    def __init__(
        self,
        run_id: str,
        planned: int,
        done: int,
        engines: int,
        held_s: Callable[[], float],
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        """Args:
        done: Images that had their rows before.
        held_s: Tells the engine-seconds so far; RayError where they are not to be had.
        """
        self._run, self._held_s, self._renew_every_s = {"run": run_id}, held_s, renew_every_s
        self._done = self._counter("s4v_images_done_total", "Images with a row")
        self._ok = self._counter("s4v_captions_ok_total", "Captions that passed the gate")
        self._attempts = self._counter("s4v_attempts_total", "Captions generated")
        self._tokens = self._counter("s4v_output_tokens_total", "Tokens in captions' units")
        self._starts = self._counter("s4v_engine_starts_total", "Engines started for dead ones")
        self._seconds = self._counter("s4v_engine_seconds_total", "Seconds that engines lived")
        self._reasons = self._counter(
            "s4v_images_without_caption_total", "Rejected images and errors", "reason"
        )
        self._stages = self._counter("s4v_stage_seconds_total", "Work by stage", "stage")
        self._bound = self._gauge("s4v_bound_by", "1 for what sets the pace", "stage")
        self._steady = (
            (self._gauge("s4v_images_planned", "Images of the plan"), planned),
            (self._gauge("s4v_engines", "Engine actors asked for"), engines),
        )
        self._bound_by: str | None = None
        self._told_s = 0.0
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
        self._thread.join(LAST_WORD_S)

    def add(self, done: UnitDone, bound_by: str) -> None:
        """A unit is durable."""
        amounts = (
            (self._done, done.rows),
            (self._ok, done.generated_ok),
            (self._attempts, done.attempts),
            (self._tokens, done.output_tokens),
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
        """Every series whose labels are known: a rate needs the zero that it rises from."""
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
        for stage in BOUNDS if self._bound_by else ():
            self._bound.set(float(stage == self._bound_by), self._run | {"stage": stage})

    def _add_held(self) -> None:
        try:
            held_s = self._held_s()
        except RayError:  # a cluster in distress; the next time
            return
        self._seconds.add(max(held_s - self._told_s, 0.0), self._run)
        self._told_s = held_s

    def _counter(self, name: str, about: str, *tags: str) -> "_Count":
        return _Count(_registered(name), about, tag_keys=("run", *tags))

    def _gauge(self, name: str, about: str, *tags: str) -> Gauge:
        return Gauge(_registered(name), about, tag_keys=("run", *tags))


class _Count(Counter):  # type: ignore[misc] # Ray ships no types
    """A counter that also takes zero, which Ray's `inc` refuses: it makes the series appear."""

    def add(self, amount: float, tags: dict[str, str]) -> None:
        self._record(float(amount), tags)


def _registered(name: str) -> str:
    assert name in NAMES, name
    return name
