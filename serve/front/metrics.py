"""What replicas export in Prometheus's terms, through Ray's own agents; vLLM adds its own."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

NAMES = (
    "s4v_http_requests_total",
    "s4v_http_seconds",
    "s4v_served_captions_total",
    "s4v_served_tokens_total",
    "s4v_refusals_total",
    "s4v_served_engine_starts",
)
"""Everything that is exported; dashboards may use no other name."""

SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]


ROUTES = frozenset(
    ("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/caption", "/v1/captions")
)


def count_request(report: Mapping[str, Any]) -> None:
    """A request is over: the guard's report of it."""
    metrics = serve_metrics()
    # Paths are the client's words: one series for each of them would fill the store.
    route = report["path"] if report["path"] in ROUTES else "other"
    metrics.answered(route, report["status"], report["ms"] / 1000)
    if report["code"]:
        metrics.refused(report["code"])


@lru_cache(maxsize=1)
def serve_metrics() -> "ServeMetrics":
    """This process's."""
    return ServeMetrics()


def engine_starts_gauge() -> Gauge:
    """How often an engine replica has started its engine. To be set again and again: Ray's agent
    forgets what nobody has set since its last report."""
    return Gauge(NAMES[5], "Engines started, the first one included", ("model",))


class ServeMetrics:
    """Counts of one ingress replica."""

    def __init__(self) -> None:
        self._requests = Counter(NAMES[0], "Answered requests", ("route", "status"))
        self._seconds = Histogram(NAMES[1], "From arrival to the answer's end", SECONDS, ("route",))
        self._captions = Counter(NAMES[2], "Captions by result", ("model", "status", "reason"))
        self._tokens = Counter(NAMES[3], "Tokens of prompts and answers", ("model", "kind"))
        self._refusals = Counter(NAMES[4], "Refused requests by code", ("code",))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request is over."""
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    def refused(self, code: str) -> None:
        """A request was refused with this code."""
        self._refusals.inc(1, {"code": code})

    def captioned(self, model: str, status: str, reason: str | None) -> None:
        """A caption was made, or none."""
        self._captions.inc(1, {"model": model, "status": status, "reason": reason or ""})

    def generated(self, model: str, prompt_tokens: int | None, output_tokens: int | None) -> None:
        """An engine read and wrote tokens."""
        for kind, count in (("prompt", prompt_tokens), ("output", output_tokens)):
            if count:
                self._tokens.inc(count, {"model": model, "kind": kind})
