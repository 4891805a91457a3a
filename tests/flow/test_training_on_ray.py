"""Training on a real local Ray gives the losses of one process, even if workers are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from s4v_core import storage
from s4v_core.training.worker.checkpoints import list_checkpoints
from s4v_core.training.worker.sample_log import audit_samples
from s4v_core.training.worker.step_metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
STEPS = 50

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from s4v_core.demo.scene_files import write_lessons

    folder = tmp_path_factory.mktemp("world") / "lessons"
    write_lessons(folder, 400, seed=3)
    return folder


@pytest.fixture(scope="module")
def command(lessons: Path, checkpoint: Path) -> Callable[..., list[str]]:
    def build(output: Path, workers: int, *more: str) -> list[str]:
        return [
            *(sys.executable, "ray_jobs/train_captioner.py", "demo", "--demo-scenes", "0"),
            *("--data", f"{lessons}/captions.json", "--images", str(lessons)),
            *("--model", str(checkpoint), "--output", str(output), "--workers", str(workers)),
            *("--batch-size", "16", "--device-batch-size", "4", "--max-steps", str(STEPS)),
            *("--saving.every-steps", "10", *more),
        ]

    return build


ENVIRONMENT = os.environ | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}


def _run_to_end(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=600
    )


@pytest.fixture(scope="module")
def alone(
    command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The losses of a single process without Ray."""
    output = tmp_path_factory.mktemp("alone") / "run"
    done = _run_to_end(command(output, 0))
    assert done.returncode == 0, done.stderr
    return _read_losses(output)


def _read_losses(output: Path) -> list[float]:
    metrics = read_metrics(str(output))
    assert [m.step for m in metrics] == list(range(1, STEPS + 1))
    return [m.loss for m in metrics]


def _prove_every_sample_once(output: Path) -> None:
    found = audit_samples(str(output), samples=400, steps_per_epoch=25, steps=STEPS)
    assert (found.seen, found.twice, found.left_out) == (16 * STEPS, 0, 0)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_give_the_losses_of_one_process(
    command: Callable[..., list[str]], alone: list[float], tmp_path: Path, workers: int
) -> None:
    done = _run_to_end(command(tmp_path / "run", workers))
    assert done.returncode == 0, done.stderr
    assert _read_losses(tmp_path / "run") == pytest.approx(alone, abs=1e-4)
    _prove_every_sample_once(tmp_path / "run")


def _start_until_checkpoints(
    command: list[str], output: Path, checkpoints: int
) -> subprocess.Popen[str]:
    """Start a run and wait until it has written a number of checkpoints."""
    run = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT,
        env=ENVIRONMENT,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(list_checkpoints(str(output))) < checkpoints:
        assert run.poll() is None, run.stderr and run.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.2)
    return run


def _find_train_workers(driver: int) -> Iterator[psutil.Process]:
    for process in psutil.Process(driver).children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            yield process


def test_a_killed_worker_costs_nothing_but_time(
    command: Callable[..., list[str]], alone: list[float], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run = _start_until_checkpoints(command(output, 2), output, checkpoints=2)
    victim = next(_find_train_workers(run.pid))
    victim.send_signal(signal.SIGKILL)
    _, complaints = run.communicate(timeout=500)
    assert run.returncode == 0, complaints
    assert _read_losses(output) == pytest.approx(alone, abs=1e-6)
    _prove_every_sample_once(output)


def test_a_killed_driver_resumes_with_the_same_command(
    command: Callable[..., list[str]], alone: list[float], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run = _start_until_checkpoints(command(output, 2), output, checkpoints=2)
    run.kill()
    run.wait()
    done = _run_to_end(command(output, 2))
    assert done.returncode == 0, done.stderr
    assert _read_losses(output) == pytest.approx(alone, abs=1e-6)
    _prove_every_sample_once(output)
    assert json.loads(storage.read(str(output / "run.json")))["job"]["workers"] == 2
