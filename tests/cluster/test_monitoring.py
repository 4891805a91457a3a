"""Dashboard and rules use only metric names that are exported."""

import importlib.util
import re
from pathlib import Path

import pytest
import ray

from s4v_core.flow import prometheus as run_metrics
from serve.front import metrics as serve_metrics
from tests.cluster.dashboard import USED, dashboard, expressions, rules

HISTOGRAM = "s4v_http_seconds"
RAY_SOURCES = {
    "dashboard/modules/reporter/reporter_agent.py": "node_",
    "serve/_private": "serve_",
    "dashboard/modules/metrics/dashboards/default_dashboard_panels.py": "object_store_",
}
"""Prefix of Ray's own metrics in each of its source files."""


def test_every_metric_of_ours_is_exported() -> None:
    exported = {f"ray_{name}" for name in run_metrics.NAMES + serve_metrics.NAMES}
    exported.remove(f"ray_{HISTOGRAM}")  # only its parts are exported
    exported |= {f"ray_{HISTOGRAM}_{part}" for part in ("bucket", "count", "sum")}
    assert {name for name in USED if name.startswith("ray_s4v_")} <= exported


def test_every_metric_of_ray_is_in_its_source() -> None:
    source = Path(ray.__file__).parent
    theirs = {
        name.removeprefix("ray_") for name in USED if not re.match(r"ray_s4v_|ray_vllm_|s4v:", name)
    }
    for place, beginning in RAY_SOURCES.items():
        files = [source / place] if place.endswith(".py") else (source / place).glob("*.py")
        text = "".join(file.read_text() for file in files)
        theirs -= {name for name in theirs if name.startswith(beginning) and name in text}
    assert not theirs


def test_every_metric_of_vllm_is_in_its_source() -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    metrics = Path(spec.origin).parent / "v1" / "metrics"
    named = re.findall(r'name="(vllm:\w+)"', (metrics / "loggers.py").read_text())
    # The test renames metrics as Ray's wrapper does, and checks that the wrapper still does so.
    assert 're.sub(r"[^a-zA-Z0-9_]", "_", name)' in (metrics / "ray_wrappers.py").read_text()
    exported = {"ray_" + re.sub(r"[^a-zA-Z0-9_]", "_", name) for name in named}
    used = {name for name in USED if name.startswith("ray_vllm_")}
    assert used
    assert used <= exported


def test_every_recorded_series_is_recorded_and_used() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for name in USED if name.startswith("s4v:")} == recorded


@pytest.mark.parametrize(
    "wanted",
    [
        *("rows_done|rows_per_s", "gpu_days", "gpu_days_forecast", "rows_failed_total"),
        *("bound_by", "queued_queries", "http_requests", "http_seconds_bucket", "tokens"),
        *("vllm_kv_cache_usage", "vllm_num_requests_running", "vllm_num_requests_waiting"),
        *("engines", "node_gpus_utilization", "node_cpu_utilization", "node_mem_used"),
    ],
)
def test_the_dashboard_shows(wanted: str) -> None:
    shown = [target["expr"] for it in dashboard()["panels"] for target in it.get("targets", ())]
    assert any(re.search(wanted, expression) for expression in shown)


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    assert all(panel["title"] for panel in panels)


def test_brackets_close_and_alerts_say_what_to_do() -> None:
    for text in expressions():
        for opened, closed in ("()", "[]", "{}"):
            assert text.count(opened) == text.count(closed), text
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert alerts.keys() == {
        *("S4VNoProgress", "S4VManyFailedRows", "S4VEngineRestarts"),
        *("S4VEndpointErrors", "S4VOverload"),
    }
    for rule in alerts.values():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description"}
