"""An engine that is stopped from outside (SIGSTOP) and stops answering, with default settings."""

import itertools
import json
from pathlib import Path

import psutil
import pytest

from tests.faults.world import build_world
from tests.flow.scripts import FAKE, engine_actors, start, wait_for_units

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

ROUNDS = 3
GAP_S = 150
"""Longest time between two finished units: 120 s of silence, then the start of a new engine."""


def test_a_stopped_engine_is_replaced_and_nobody_is_blamed(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        world = build_world(tmp_path / f"{number}" / "shards", images=400, shards=4)
        output = tmp_path / f"{number}" / "out"
        flags = ["--input", str(world.shards), "--output", str(output), "--unit-size", "16"]
        flags += [*FAKE, "--settings.fake-faults", "--settings.fake-latency-s", "0.3"]
        run = start("caption.py", *flags, "--settings.max-num-seqs", "4", cwd=output.parent)
        wait_for_units(output, 5, run)
        [actor] = engine_actors(run)
        [engine] = actor.children()
        engine.suspend()
        _, complaints = run.communicate(timeout=600)
        assert run.returncode == 0, complaints
        assert not psutil.pid_exists(engine.pid)
        assert json.loads((output / "stats.json").read_text())["engine_restarts"] == 1
        rows = world.prove(output)
        assert {row["attempts"] for row in rows.values()} == {1}
        ends = sorted(file.stat().st_mtime for file in (output / "captions").iterdir())
        assert 100 < max(b - a for a, b in itertools.pairwise(ends)) < GAP_S
