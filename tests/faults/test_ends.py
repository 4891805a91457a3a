"""Runs that end before their time: told to go, their cluster gone; or that must not begin."""

import hashlib
import logging
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from s4v_core.engines.settings import EngineSettings
from s4v_core.flow.pipeline import needed_cpus
from tests.cluster.head import head_node, joining
from tests.faults.world import LARGE_UNIT, World
from tests.flow.scripts import FAKE, kill, run, start, unit_times, wait_for_units

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

log = logging.getLogger(__name__)

SLOW = ("--settings.max-num-seqs", "64", "--settings.fake-latency-s", "0.3")
GONE_S, PROGRESS_S = 2, 30
OTHERS = (
    ["--prompt", "What?"],
    ["--sampling.temperature", "0.9"],
    ["--gate.no-enabled"],
    ["--limit", "5"],
    ["--dedupe", "exact"],
)


def _flags(world: World, output: Path) -> list[str]:
    settings = ("--unit-size", str(LARGE_UNIT), "--settings.cpus", "1")
    return ["--input", str(world.shards), "--output", str(output), *FAKE, *settings, *SLOW]


def _finishes(world: World, output: Path, **variables: str) -> None:
    code, _, err = run("caption.py", *_flags(world, output), cwd=output.parent, **variables)
    assert code == 0, err
    world.prove(output)


def _begun(
    world: World, output: Path, new: int, **variables: str
) -> tuple[subprocess.Popen[str], dict[str, int]]:
    """A run that has done so many new units, and the units that it found."""
    before = unit_times(output)
    driver = start("caption.py", *_flags(world, output), cwd=output.parent, **variables)
    wait_for_units(output, len(before) + new, driver)
    return driver, before


def test_told_to_go_at_any_moment_it_goes_and_resumes(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    chance = random.Random(0)
    for number in range(10):
        driver, before = _begun(large, output, number % 2)
        # While Ray starts, or the index is made; or in the middle of the flow.
        time.sleep(chance.uniform(0, 1.5) if number % 2 else chance.uniform(2, 6))
        told = time.monotonic()
        driver.send_signal(signal.SIGTERM)
        _, err = driver.communicate(timeout=30)
        assert time.monotonic() - told < GONE_S
        assert driver.returncode == 143, err
        assert "terminated" in err
        assert before.items() <= unit_times(output).items(), "a finished unit was done again"
    _finishes(large, output)


def test_other_settings_on_the_same_output_write_nothing(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    driver, _ = _begun(large, output, 3)
    kill(driver)
    before = _digests(output)
    for other in OTHERS:
        code, _, err = run("caption.py", *_flags(large, output), *other, cwd=tmp_path)
        assert code == 2, (other, err)
        assert "was made with" in err
        assert _digests(output) == before, other
    _finishes(large, output)


def _digests(output: Path) -> dict[str, str]:
    files = (path for path in output.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_head_is_killed_and_a_new_cluster_goes_on(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for _ in range(3):
        with head_node() as variables:
            driver, before = _begun(large, output, 2, **joining(variables))
        # Ray ends a driver whose head has been away for a minute.
        driver.communicate(timeout=300)
        assert driver.returncode != 0
        assert before.items() <= unit_times(output).items(), "a finished unit was done again"
    with head_node() as variables:
        _finishes(large, output, **joining(variables))


def test_the_smallest_cluster_that_starts_a_run_resumes_it(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    waits = []
    with head_node(cpus=int(needed_cpus(EngineSettings(cpus=1), 1)) + 1) as variables:
        for _ in range(6):
            began = time.monotonic()
            driver, before = _begun(large, output, 1, **joining(variables))
            waits.append(time.monotonic() - began)
            os.kill(driver.pid, signal.SIGKILL)
            driver.communicate()
            assert before.items() <= unit_times(output).items(), "a finished unit was done again"
        _finishes(large, output, **joining(variables))
    log.info("seconds to the first new unit: %s", [f"{wait:.1f}" for wait in waits])
    assert max(waits[1:]) <= PROGRESS_S
