"""Engines on several GPUs: where they are placed, and what a cluster without room for them says.
vLLM's part of it, two processes on a CPU, is tested with the real engine."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.flow.pipeline import needed_cpus
from s4v_core.flow.placement import engine_resources, list_bundles
from s4v_core.flow.spec import Engines, FlowSpec
from tests.flow.scripts import ROOT


def _flow(device: Any = "gpu", **settings: Any) -> FlowSpec:
    engine = EngineSpec("vllm", "m", "model", EngineSettings(**settings), device)
    return FlowSpec("out", (), "run", engine, task=None)  # type: ignore[arg-type]


def test_an_engine_reserves_its_gpus_on_one_node() -> None:
    one = Engines(1)
    assert engine_resources(_flow(), one) == {"num_cpus": 2, "num_gpus": 1}
    four = engine_resources(_flow(gpus_per_engine=4), Engines(1, "H100"))
    assert four == {"num_cpus": 4, "num_gpus": 4, "accelerator_type": "H100"}
    assert engine_resources(_flow("cpu", gpus_per_engine=2, cpus=1), one) == {"num_cpus": 2}
    assert engine_resources(_flow("cpu", cpus=1), one) == {"num_cpus": 1.01}
    assert needed_cpus(EngineSettings(gpus_per_engine=4), 2) == 2 * 4 + 1.25


def test_an_engine_on_several_nodes_reserves_a_bundle_per_gpu() -> None:
    spec = _flow(gpus_per_engine=2, nodes_per_engine=2)
    assert engine_resources(spec, Engines(1, "H100")) == {"num_cpus": 2}
    marked = {"GPU": 1, "accelerator_type:H100": 0.001}
    assert list_bundles(spec, Engines(1, "H100")) == [marked | {"CPU": 2}, marked, marked, marked]


@pytest.mark.slow
def test_engines_on_several_nodes_get_their_places_and_give_them_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.flow.spread_engine", str(tmp_path / "out")],
        env=os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "refused: cluster: no node has 8 GPUs, the largest has 4; lower" in done.stdout
    assert "60 of 60 texts (100.0 %): 60 ok" in done.stdout
    groups = [line for line in done.stdout.splitlines() if line.startswith("group: ")]
    # No CPU is reserved but the worker's own, in the bundle that it runs in.
    bundles = "[[('CPU', 1.01), ('GPU', 1.0)], [('GPU', 1.0)]]"
    assert set(groups) == {f"group: REMOVED PACK {bundles}"}
    assert len(groups) == 2
