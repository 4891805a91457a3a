"""Processes killed with -9 at the worst moments: the same command resumes and loses no image."""

import logging
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.world import LARGE_UNIT, World, build_world, failpoint
from tests.flow.scripts import FAKE, engine_actors, kill, run, start, unit_times, wait_for_units

pytestmark = pytest.mark.timeout(600)

log = logging.getLogger(__name__)

DRIVER_POINTS = ("before_plan_put", "after_plan_put")
WORKER_POINTS = (
    *("before_read", "after_decode", "in_generate", "before_unit_put", "mid_put"),
    *("after_unit_put", "before_ack"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world") / "shards", images=400, shards=4)


def _build_flags(world: World, output: Path, *more: str) -> list[str]:
    settings = ("--unit-size", "16", "--settings.max-num-seqs", "16")
    return ["--input", str(world.shards), "--output", str(output), *FAKE, *settings, *more]


def _run_until_done(world: World, output: Path, **variables: str) -> tuple[int, str]:
    """Repeat the same command until it succeeds; return the number of runs and the last output."""
    for starts in range(1, 5):
        code, out, err = run(
            "caption.py", *_build_flags(world, output), cwd=output.parent, **variables
        )
        if code == 0:
            return starts, out
        assert code in (1, -signal.SIGKILL), err
    raise AssertionError(err)


@pytest.mark.parametrize(("name", "nth"), [("in_generate", 3), ("mid_put", 4)])
def test_a_process_killed_at_one_point_loses_nothing(
    world: World, tmp_path: Path, name: str, nth: int
) -> None:
    _run_until_done(world, tmp_path / "out", **failpoint(name, nth, tmp_path))
    world.prove(tmp_path / "out")
    # Each process that reached the point left a file, the killed one too.
    assert len(list((tmp_path / "reached").iterdir())) >= nth


@pytest.mark.faults
@pytest.mark.parametrize("name", [*DRIVER_POINTS, *WORKER_POINTS])
@pytest.mark.parametrize("nth", [1, 2, 7])
def test_a_process_killed_at_every_point_loses_nothing(
    world: World, tmp_path: Path, name: str, nth: int
) -> None:
    nth = 1 if name in DRIVER_POINTS else nth
    _run_until_done(world, tmp_path / "out", **failpoint(name, nth, tmp_path))
    world.prove(tmp_path / "out")
    assert len(list((tmp_path / "reached").iterdir())) >= nth


SLOW = ("--unit-size", str(LARGE_UNIT), "--settings.max-num-seqs", "32")
SLOW += ("--settings.fake-latency-s", "0.3")
FIRST_UNIT_S = 20


def _build_slow_flags(world: World, output: Path, *more: str) -> list[str]:
    return ["--input", str(world.shards), "--output", str(output), *FAKE, *SLOW, *more]


def _kill_actors_at_random(
    driver: subprocess.Popen[str], count: int, pause: Callable[[], float]
) -> int:
    killed = 0
    while killed < count and driver.poll() is None:
        time.sleep(pause())
        try:
            actors = engine_actors(driver)
        except psutil.NoSuchProcess:
            break
        if actors:
            random.choice(actors).kill()
            killed += 1
    return killed


@pytest.mark.faults
def test_engine_actors_killed_at_random_lose_nothing(large: World, tmp_path: Path) -> None:
    kills = 20
    driver = start(
        "caption.py", *_build_slow_flags(large, tmp_path / "out", "--engines", "2"), cwd=tmp_path
    )
    wait_for_units(tmp_path / "out", 1, driver)
    chance = random.Random(kills)
    killed = _kill_actors_at_random(driver, kills, lambda: chance.uniform(0.5, 3.0))
    _, err = driver.communicate(timeout=500)
    assert driver.returncode == 0, err
    large.prove(tmp_path / "out")
    assert killed == kills


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_driver_killed_again_and_again_resumes(large: World, tmp_path: Path) -> None:
    output, waits = tmp_path / "out", []
    for _ in range(10):
        before, began = unit_times(output), time.monotonic()
        driver = start("caption.py", *_build_slow_flags(large, output), cwd=tmp_path)
        wait_for_units(output, len(before) + 1, driver)
        waits.append(time.monotonic() - began)
        wait_for_units(output, len(before) + 3, driver)
        kill(driver)
        assert before.items() <= unit_times(output).items(), "a finished unit was done again"
    code, _, err = run("caption.py", *_build_slow_flags(large, output), cwd=tmp_path)
    assert code == 0, err
    large.prove(output)
    log.info("seconds to the first new unit: %s", [f"{wait:.1f}" for wait in waits])
    assert max(waits[1:]) <= FIRST_UNIT_S  # the first one indexes
