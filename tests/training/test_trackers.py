"""Weights & Biases and MLflow: only if asked for, offline, and never the end of a run."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest

from s4v_core.errors import ConfigError
from s4v_core.training.checks import check_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Saving
from s4v_core.training.worker import trackers
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import read_metrics
from s4v_core.training.worker.world import open_local_world
from tests.training.lessons import build_job, write_lessons


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_whose_package_is_missing_is_refused_at_the_start(
    lessons: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == name else found(n, *a)
    )
    with pytest.raises(ConfigError, match=f"log_to: found {name}, .* pip install {name}, or leave"):
        check_stage(build_job(lessons, checkpoint, tmp_path / "run", log_to=(name,)))
    assert not (tmp_path / "run").exists()


def test_an_unknown_service_is_refused(lessons: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log_to.0: found 'comet'"):
        build_job(lessons, checkpoint, tmp_path, log_to=("comet",))


def test_wandb_records_a_run_offline(
    lessons: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    outcome = run_stage(build_job(lessons, checkpoint, tmp_path / "run", log_to=("wandb",)))
    assert outcome.exit_code == 0
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = record.read_bytes()
    assert all(name in data for name in (b"grad_norm", b"learning_rate", b"lessons"))


def test_mlflow_records_every_step_once_although_the_run_was_stopped(
    lessons: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    job = build_job(
        lessons, checkpoint, tmp_path / "run", log_to=("mlflow",), saving=Saving(every_steps=1)
    )
    _, spec = prepare_run(check_stage(job))
    session = LocalSession(lambda m: session.request_stop() if m.step >= 2 else None)
    with open_local_world("cpu") as world:
        train(spec, world, session)
    outcome = run_stage(job)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("s4v")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "8"
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [
        (m.step, pytest.approx(m.loss)) for m in outcome.metrics
    ]


class _Failing:
    """A service that is away from the beginning, or goes away after its first step."""

    def __init__(self, *_: Any) -> None:
        if self.begins:
            raise ConnectionError("no route to host")

    begins = True

    def log(self, step: int, values: Any) -> None:
        if step > 1:
            raise RuntimeError("quota exceeded")

    def close(self) -> None:
        raise RuntimeError("closed by peer")


@pytest.mark.parametrize("begins", [True, False])
def test_a_service_that_fails_ends_no_run(
    lessons: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    begins: bool,
) -> None:
    monkeypatch.setitem(trackers._KINDS, "wandb", type("Away", (_Failing,), {"begins": begins}))
    monkeypatch.setattr(trackers, "refuse_missing_trackers", lambda names: None)
    job = build_job(lessons, checkpoint, tmp_path / "run")
    _, spec = prepare_run(check_stage(job))
    from dataclasses import replace

    spec = replace(spec, job=job.replace(log_to=("wandb",)))
    with caplog.at_level(logging.WARNING), open_local_world("cpu") as world:
        train(spec, world, LocalSession(lambda metrics: None))
    assert len(read_metrics(spec.output)) == spec.steps
    said = [record.message for record in caplog.records if "no metrics" in record.message]
    assert len(said) == 1
    assert ("no route to host" if begins else "quota exceeded") in said[0]
