"""Runs that are terminated or lose their cluster, and runs that must not start."""

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
from tests.cluster.head import driver_variables, head_node
from tests.faults.world import LARGE_UNIT, World
from tests.flow.scripts import FAKE, kill, run, start, unit_times, wait_for_units

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

log = logging.getLogger(__name__)

SLOW = ("--settings.max-num-seqs", "64", "--settings.fake-latency-s", "0.3")
END_LIMIT_S, PROGRESS_S = 2, 30
OTHER_SETTINGS = (
    ["--prompt", "What?"],
    ["--sampling.temperature", "0.9"],
    ["--gate.no-enabled"],
    ["--limit", "5"],
    ["--dedupe", "exact"],
)


def _build_flags(world: World, output: Path) -> list[str]:
    settings = ("--unit-size", str(LARGE_UNIT), "--settings.cpus", "1")
    return ["--input", str(world.shards), "--output", str(output), *FAKE, *settings, *SLOW]


def _finish_and_prove(world: World, output: Path, **variables: str) -> None:
    code, _, err = run("caption.py", *_build_flags(world, output), cwd=output.parent, **variables)
    assert code == 0, err
    world.prove(output)


def _start_until_units(
    world: World, output: Path, new: int, **variables: str
) -> tuple[subprocess.Popen[str], dict[str, int]]:
    """Start a run and wait for `new` finished units; also return the units it started with."""
    before = unit_times(output)
    driver = start("caption.py", *_build_flags(world, output), cwd=output.parent, **variables)
    wait_for_units(output, len(before) + new, driver)
    return driver, before


def test_a_run_ends_on_sigterm_at_any_moment_and_resumes(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    chance = random.Random(0)
    for number in range(10):
        driver, before = _start_until_units(large, output, number % 2)
        # Either Ray is starting or the input is being indexed, or captioning is under way.
        time.sleep(chance.uniform(0, 1.5) if number % 2 else chance.uniform(2, 6))
        sent_at = time.monotonic()
        driver.send_signal(signal.SIGTERM)
        _, err = driver.communicate(timeout=30)
        assert time.monotonic() - sent_at < END_LIMIT_S
        assert driver.returncode == 143, err
        assert "terminated" in err
        assert before.items() <= unit_times(output).items(), "a finished unit was done again"
    _finish_and_prove(large, output)


def test_other_settings_on_the_same_output_write_nothing(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    driver, _ = _start_until_units(large, output, 3)
    kill(driver)
    before = _hash_files(output)
    for other in OTHER_SETTINGS:
        code, _, err = run("caption.py", *_build_flags(large, output), *other, cwd=tmp_path)
        assert code == 2, (other, err)
        assert "was made with" in err
        assert _hash_files(output) == before, other
    _finish_and_prove(large, output)


def _hash_files(output: Path) -> dict[str, str]:
    files = (path for path in output.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_new_cluster_resumes_after_the_head_is_killed(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for _ in range(3):
        with head_node() as variables:
            driver, before = _start_until_units(large, output, 2, **driver_variables(variables))
        # Ray ends a driver whose head has been away for a minute.
        driver.communicate(timeout=300)
        assert driver.returncode != 0
        assert before.items() <= unit_times(output).items(), "a finished unit was done again"
    with head_node() as variables:
        _finish_and_prove(large, output, **driver_variables(variables))


def test_the_smallest_cluster_that_starts_a_run_resumes_it(large: World, tmp_path: Path) -> None:
    output = tmp_path / "out"
    waits = []
    with head_node(cpus=int(needed_cpus(EngineSettings(cpus=1), 1)) + 1) as variables:
        for _ in range(6):
            began = time.monotonic()
            driver, before = _start_until_units(large, output, 1, **driver_variables(variables))
            waits.append(time.monotonic() - began)
            os.kill(driver.pid, signal.SIGKILL)
            driver.communicate()
            assert before.items() <= unit_times(output).items(), "a finished unit was done again"
        _finish_and_prove(large, output, **driver_variables(variables))
    log.info("seconds to the first new unit: %s", [f"{wait:.1f}" for wait in waits])
    assert max(waits[1:]) <= PROGRESS_S
