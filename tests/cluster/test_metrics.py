"""The metrics of a running pass, scraped from Ray's own agent, have the documented names."""

import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from s4v_core.engines.fake_faults import Fault
from s4v_core.flow.prometheus import NAMES
from tests.cluster.head import head_node
from tests.faults.world import build_world
from tests.flow.scripts import FAKE, start

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]


def _scrape(address: str) -> dict[str, float]:
    """Scrape this project's series; return their sums by name, and by reason."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except URLError:  # the agent is not up yet
        return {}
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith("ray_s4v_"):
            name, _, value = line.rpartition(" ")
            name, _, tags = name.partition("{")
            found[name] = found.get(name, 0) + float(value)
            if reason := [tag for tag in tags.split(",") if tag.startswith("reason=")]:
                found[reason[0]] = found.get(reason[0], 0) + float(value)
    return found


def test_every_promised_name_is_in_the_scrape_of_a_running_pass(tmp_path: Path) -> None:
    faults = {5: Fault.EXIT, 40: Fault.REFUSAL}
    world = build_world(tmp_path / "shards", images=960, shards=2, faults=faults)
    flags = [*FAKE, "--settings.fake-faults", "--settings.fake-latency-s", "0.5"]
    flags += ["--unit-size", "16", "--settings.max-num-seqs", "16"]
    flags += ["--input", str(world.shards), "--output", str(tmp_path / "out")]
    with head_node() as variables:
        driver = start(
            "caption.py", *flags, cwd=tmp_path, **variables | {"RAY_ADDRESS": variables["GCS"]}
        )
        wanted = {f"ray_{name}" for name in NAMES} | {'reason="refusal"', 'reason="engine_died"'}
        found: dict[str, float] = {}
        # Series are there from the start, as zeros.
        while wanted - {n for n, value in found.items() if value > 0} and driver.poll() is None:
            time.sleep(0.5)
            found = _scrape(variables["METRICS"])
        _, complaints = driver.communicate(timeout=300)
        assert driver.returncode == 0, complaints[-3000:]
        assert not wanted - {name for name, value in found.items() if value > 0}
        assert found["ray_s4v_rows_planned"] == 960
        assert found["ray_s4v_rows_done_total"] >= 16
        assert found["ray_s4v_engine_starts_total"] >= 1
    world.prove(tmp_path / "out")
