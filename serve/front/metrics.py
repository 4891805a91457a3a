"""Prometheus metrics of the replicas, exported by Ray's own agents; vLLM adds its own."""

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
"""All metrics that are exported; dashboards may use no other name."""

_BUCKETS_S = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
"""Upper bounds of the histogram's buckets, in seconds."""

ROUTES = frozenset(
    (
        *("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses"),
        *("/v1/caption", "/v1/captions", "/tokenize"),
    )
)
"""Paths that are counted under their own name."""


def count_request(report: Mapping[str, Any]) -> None:
    """Count a request that has ended, from its report (`Exchange.build_report`)."""
    metrics = build_metrics()
    # Clients choose the paths: one time series for each of them would fill the metrics store.
    route = report["path"] if report["path"] in ROUTES else "other"
    metrics.count_answer(route, report["status"], report["ms"] / 1000)
    if report["code"]:
        metrics.count_refusal(report["code"])


@lru_cache(maxsize=1)
def build_metrics() -> "ServeMetrics":
    """Build the metrics of this process on the first call; later calls return the same object."""
    return ServeMetrics()


def build_engine_starts_gauge() -> Gauge:
    """Build the gauge of how often an engine replica has started its engine. Set it repeatedly:
    Ray's agent forgets a value that was not set again since its last report."""
    return Gauge(NAMES[5], "Engines started, the first one included", ("model",))


class ServeMetrics:
    """The counters of one ingress replica."""

    def __init__(self) -> None:
        self._requests = Counter(NAMES[0], "Answered requests", ("route", "status"))
        self._seconds = Histogram(
            NAMES[1], "Seconds from arrival to the answer's end", _BUCKETS_S, ("route",)
        )
        self._captions = Counter(NAMES[2], "Captions by result", ("model", "status", "reason"))
        self._tokens = Counter(NAMES[3], "Tokens of prompts and answers", ("model", "kind"))
        self._refusals = Counter(NAMES[4], "Refused requests by code", ("code",))

    def count_answer(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended, and its duration."""
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    def count_refusal(self, code: str) -> None:
        """Count a refused request by its code."""
        self._refusals.inc(1, {"code": code})

    def count_caption(self, model: str, status: str, reason: str | None) -> None:
        """Count a caption, or the failure to make one, by its status."""
        self._captions.inc(1, {"model": model, "status": status, "reason": reason or ""})

    def count_tokens(
        self, model: str, prompt_tokens: int | None, output_tokens: int | None
    ) -> None:
        """Count the tokens that an engine read and wrote."""
        for kind, count in (("prompt", prompt_tokens), ("output", output_tokens)):
            if count:
                self._tokens.inc(count, {"model": model, "kind": kind})
