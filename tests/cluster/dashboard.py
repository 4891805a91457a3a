"""The Prometheus queries in `cluster/monitoring/`, and the metric names that they use."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).resolve().parents[2] / "cluster" / "monitoring"


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (variable["query"] for variable in dashboard()["templating"]["list"])
    yield from (rule["expr"] for rule in rules())


USED = {name for text in expressions() for name in re.findall(r"\bray_\w+|\bs4v:\w+", text)}
"""All metric names in use: those that Prometheus scrapes, and those that rules record."""
