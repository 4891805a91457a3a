"""A pass in Prometheus's terms, exported by Ray's own agents on every node."""

from ray.util.metrics import Counter, Gauge

from s4v_core.generation.pass_spec import UnitDone

NAMES = (
    "s4v_images_planned",
    "s4v_images_done_total",
    "s4v_captions_ok_total",
    "s4v_attempts_total",
    "s4v_output_tokens_total",
    "s4v_images_without_caption_total",
    "s4v_engine_starts_total",
    "s4v_engines",
    "s4v_stage_seconds_total",
    "s4v_bound_by",
)
"""Everything that is exported; dashboards may use no other name."""

STAGES = ("read", "decode", "generate", "idle", "commit")
BOUNDS = ("engine", "read", "decode")


class PassMetrics:
    """Counts from the driver: one series per run, whatever its nodes do."""

    def __init__(self, run_id: str, planned: int, done: int, engines: int) -> None:
        """Args:
        done: Images that had their rows before.
        """
        self._run = {"run": run_id}
        self._done = self._counter("s4v_images_done_total", "Images with a row")
        self._ok = self._counter("s4v_captions_ok_total", "Captions that passed the gate")
        self._attempts = self._counter("s4v_attempts_total", "Captions generated")
        self._tokens = self._counter("s4v_output_tokens_total", "Tokens in captions' units")
        self._starts = self._counter("s4v_engine_starts_total", "Engines started for dead ones")
        self._reasons = self._counter(
            "s4v_images_without_caption_total", "Rejected images and errors", "reason"
        )
        self._stages = self._counter("s4v_stage_seconds_total", "Work by stage", "stage")
        self._bound = self._gauge("s4v_bound_by", "1 for what sets the pace", "stage")
        self._steady = (
            (self._gauge("s4v_images_planned", "Images of the plan"), planned),
            (self._gauge("s4v_engines", "Engine actors asked for"), engines),
        )
        self._renew()
        if done:
            self._done.inc(done, self._run)

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
            if amount:
                counter.inc(amount, self._run)
        for reason, count in done.reasons:
            self._reasons.inc(count, self._run | {"reason": reason})
        for stage in STAGES:
            if (seconds := getattr(done, f"{stage}_s")) > 0:
                self._stages.inc(seconds, self._run | {"stage": stage})
        for stage in BOUNDS:
            self._bound.set(float(stage == bound_by), self._run | {"stage": stage})
        self._renew()

    def _renew(self) -> None:
        """Ray's agent forgets a gauge that nobody has set since its last report."""
        for gauge, value in self._steady:
            gauge.set(value, self._run)

    def _counter(self, name: str, about: str, *tags: str) -> Counter:
        return Counter(_registered(name), about, tag_keys=("run", *tags))

    def _gauge(self, name: str, about: str, *tags: str) -> Gauge:
        return Gauge(_registered(name), about, tag_keys=("run", *tags))


def _registered(name: str) -> str:
    assert name in NAMES, name
    return name
