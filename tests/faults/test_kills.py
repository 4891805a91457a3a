"""Processes killed with -9 at the worst moments: the same command again, and no image is lost."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.world import World, build_world, failpoint
from tests.flow.scripts import FAKE, engine_actors, run, start, unit_times, wait_for_units

pytestmark = pytest.mark.timeout(600)

DRIVER = ("before_plan_put", "after_plan_put")
WORKERS = (
    *("before_read", "after_decode", "in_generate", "before_unit_put", "mid_put"),
    *("after_unit_put", "before_ack"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world") / "shards", images=400, shards=4)


def _flags(world: World, output: Path, *more: str) -> list[str]:
    settings = ("--unit-size", "16", "--settings.max-num-seqs", "16")
    return ["--input", str(world.shards), "--output", str(output), *FAKE, *settings, *more]


def _until_done(world: World, output: Path, **variables: str) -> tuple[int, str]:
    """Runs the same command as often as it takes; returns how often, and what the last one said."""
    for starts in range(1, 5):
        code, out, err = run("caption.py", *_flags(world, output), cwd=output.parent, **variables)
        if code == 0:
            return starts, out
        assert code in (1, -signal.SIGKILL), err
    raise AssertionError(err)


@pytest.mark.parametrize(("name", "nth"), [("in_generate", 3), ("mid_put", 4)])
def test_killed_at_one_point_of_the_way(world: World, tmp_path: Path, name: str, nth: int) -> None:
    _until_done(world, tmp_path / "out", **failpoint(name, nth, tmp_path))
    world.prove(tmp_path / "out")
    # Once for the one that died, and for each that came after it.
    assert len(list((tmp_path / "reached").iterdir())) >= nth


@pytest.mark.faults
@pytest.mark.parametrize("name", [*DRIVER, *WORKERS])
@pytest.mark.parametrize("nth", [1, 2, 7])
def test_killed_at_every_point_of_the_way(
    world: World, tmp_path: Path, name: str, nth: int
) -> None:
    nth = 1 if name in DRIVER else nth
    _until_done(world, tmp_path / "out", **failpoint(name, nth, tmp_path))
    world.prove(tmp_path / "out")
    assert len(list((tmp_path / "reached").iterdir())) >= nth


SLOW = ("--settings.fake-latency-s", "0.3")


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
def test_engine_actors_killed_at_random_lose_nothing(tmp_path: Path) -> None:
    kills = 20
    world = build_world(tmp_path / "shards", images=100 * kills, shards=4)
    flags = _flags(world, tmp_path / "out", *SLOW, "--engines", "2")
    driver = start("caption.py", *flags, cwd=tmp_path)
    wait_for_units(tmp_path / "out", 1, driver)
    chance = random.Random(kills)
    killed = _kill_actors_at_random(driver, kills, lambda: chance.uniform(0.5, 3.0))
    _, err = driver.communicate(timeout=500)
    assert driver.returncode == 0, err
    world.prove(tmp_path / "out")
    assert killed >= 3


@pytest.mark.faults
def test_a_driver_killed_again_and_again_resumes(tmp_path: Path) -> None:
    cycles = 10
    world = build_world(tmp_path / "shards", images=250 * cycles, shards=4)
    output = tmp_path / "out"
    flags = _flags(world, output, *SLOW)
    for _ in range(cycles):
        before = unit_times(output)
        driver = start("caption.py", *flags, cwd=tmp_path)
        wait_for_units(output, min(len(before) + 3, 16 * cycles), driver)
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
        assert before.items() <= unit_times(output).items(), "a finished unit was done again"
    code, _, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, err
    world.prove(output)
