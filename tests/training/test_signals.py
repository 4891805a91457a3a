"""SIGTERM to a training script, as spot machines, Slurm, Kubernetes and `ray job stop` send it."""

import contextlib
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import psutil
import pytest

from s4v_core.training.worker.checkpoints import list_checkpoints
from s4v_core.training.worker.sample_log import audit_samples
from s4v_core.training.worker.step_metrics import read_metrics
from tests.training.small_run import write_photo_lessons

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAMPLES = 100, 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_lessons(tmp_path_factory.mktemp("world") / "lessons", 300, text_alone=100)


def _build_command(lessons: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "ray_jobs/finetune.py", "demo", "--demo-scenes", "0", "--epochs", "1"),
        *("--data", f"{lessons}/data.json", "--images", str(lessons)),
        *("--model", str(checkpoint), "--output", str(output), "--saving.every-min", "99"),
        *("--batch-size", "4", "--device-batch-size", "2", "--loader-workers", "1", *more),
    ]


def _start(command: list[str], err: Path) -> subprocess.Popen[bytes]:
    """Start a script on a terminal, where its bar shows every step; `err` gets a copy."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, 200))
    run = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    err.touch()
    threading.Thread(target=_copy, args=(ours, err), daemon=True).start()
    return run


def _copy(terminal: int, err: Path) -> None:
    with err.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # it has ended
        while data := os.read(terminal, 65536):
            file.write(data)
    os.close(terminal)


def _run_to_end(command: list[str], err: Path) -> None:
    run = _start(command, err)
    assert run.wait(timeout=400) == 0, err.read_text()


def _wait_for_step(run: subprocess.Popen[bytes], err: Path, step: int, steps: int = STEPS) -> None:
    deadline = time.monotonic() + 300
    while max(map(int, re.findall(rf"(\d+)/{steps} ", err.read_text())), default=0) < step:
        assert run.poll() is None, err.read_text()
        assert time.monotonic() < deadline, err.read_text()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def losses(
    lessons: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The losses of the run that is never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    _run_to_end(_build_command(lessons, checkpoint, folder / "run"), folder / "err")
    return [m.loss for m in read_metrics(str(folder / "run"))]


def _prove(output: Path, losses: list[float]) -> None:
    assert [m.loss for m in read_metrics(str(output))] == pytest.approx(losses, abs=1e-4)
    found = audit_samples(str(output), SAMPLES, STEPS, STEPS)
    assert (found.seen, found.twice, found.left_out, found.skipped) == (SAMPLES, 0, 0, {})


@pytest.mark.parametrize("whole_job", [False, True], ids=["the script", "all its processes"])
def test_sigterm_saves_a_checkpoint_and_the_run_resumes(
    lessons: Path, checkpoint: Path, tmp_path: Path, losses: list[float], whole_job: bool
) -> None:
    output, err = tmp_path / "run", tmp_path / "err"
    command = _build_command(lessons, checkpoint, output)
    run = _start(command, err)
    _wait_for_step(run, err, 5)
    family = psutil.Process(run.pid).children(recursive=True) if whole_job else []
    for process in (psutil.Process(run.pid), *family):
        process.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 143, err.read_text()
    assert "terminated; saving a checkpoint, for 90 s at most" in err.read_text()
    assert "run the same command again to resume" in err.read_text()
    assert "Traceback" not in err.read_text()
    assert 5 <= list_checkpoints(str(output))[-1].step < STEPS
    assert not psutil.wait_procs(family, 20)[1]
    _run_to_end(command, err)
    _prove(output, losses)


def test_sigterm_ends_the_process_within_its_grace(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output, err = tmp_path / "run", tmp_path / "err"
    run = _start(_build_command(lessons, checkpoint, output, "--saving.grace-s", "0"), err)
    _wait_for_step(run, err, 3)
    started = time.monotonic()
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 143, err.read_text()
    assert time.monotonic() - started < 5
    assert "run the same command again to resume" in err.read_text()


# Also kills with -9, with another device batch in between; the goal is twenty random moments.
@pytest.mark.parametrize("turns", [2, pytest.param(20, marks=pytest.mark.faults)])
def test_a_run_survives_signals_at_random_moments(
    lessons: Path, checkpoint: Path, tmp_path: Path, losses: list[float], turns: int
) -> None:
    output, err = tmp_path / "run", tmp_path / "err"
    chance = random.Random(turns)
    for turn in range(turns):
        batch = str(chance.choice((1, 2, 3, 4)))
        more = ("--device-batch-size", batch, "--saving.every-steps", "2")
        run = _start(_build_command(lessons, checkpoint, output, *more), err)
        done = list_checkpoints(str(output))[-1].step if list_checkpoints(str(output)) else 0
        _wait_for_step(run, err, min(done + 1, STEPS - 1))
        time.sleep(chance.uniform(0, 0.5))
        kind = signal.SIGKILL if turn % 2 else signal.SIGTERM
        run.send_signal(kind)
        assert run.wait(timeout=120) in (-kind, 143, 0), err.read_text()
    _run_to_end(_build_command(lessons, checkpoint, output), err)
    _prove(output, losses)


def test_sigterm_under_ray_saves_a_checkpoint(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output, err = tmp_path / "run", tmp_path / "err"
    steps = 50 * STEPS  # Ray's driver hears of a step after several more
    command = _build_command(lessons, checkpoint, output, "--workers", "2", "--epochs", "50")
    run = _start(command, err)
    _wait_for_step(run, err, 5, steps)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=90) == 143, err.read_text()
    assert "Traceback" not in err.read_text()
    done = list_checkpoints(str(output))[-1].step
    assert 5 <= done < steps
    assert [m.step for m in read_metrics(str(output))] == list(range(1, done + 1))
    found = audit_samples(str(output), SAMPLES, STEPS, done)
    assert (found.seen, found.twice, found.left_out) == (4 * done, 0, 0)
