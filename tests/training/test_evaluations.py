"""Checkpoints that are evaluated beside training, as Ray tasks; a failure ends no training."""

import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from s4v_core import storage
from s4v_core.errors import ConfigError
from s4v_core.training import evaluations
from s4v_core.training.checks import check_stage
from s4v_core.training.evaluating import Evaluating
from s4v_core.training.evaluation_records import (
    DueSteps,
    Evaluation,
    mark_taken,
    read_evaluations,
    record_evaluation,
)
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Saving
from s4v_core.training.worker.checkpoints import Manifest, list_checkpoints, prune
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import MetricsLog, StepMetrics, add_late_scores
from s4v_core.training.worker.trackers import Trackers
from s4v_core.training.worker.world import open_local_world
from tests.training.small_run import build_job, write_photo_lessons


@dataclass(frozen=True)
class CountBytes:
    """Evaluates a model by the size of its files, and fails at chosen steps."""

    broken: tuple[int, ...] = ()
    cpus: float = 1.0
    gpus: int = 0

    def __call__(self, model: str, output: str) -> Mapping[str, float]:
        step = int(output.rpartition("-")[2])
        if step in self.broken:
            raise RuntimeError("the engine does not start")
        assert json.loads(storage.read(f"{model}/config.json"))["model_type"] == "llava"
        size = sum(file.size for file in storage.list_files(model))
        return {"mme perception": float(step), "bytes": float(size)}


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_lessons(tmp_path_factory.mktemp("lessons"), 20)


def _read_board(folder: Path) -> dict[tuple[str, int], float]:
    """Scalars of all event files, by name and step."""
    found = {}
    for file in folder.iterdir():
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
            at += 12 + length + 4
    return found


def _read_scores(output: str) -> dict[int, dict[str, float]]:
    """The scores in metrics.jsonl, by step."""
    lines = [json.loads(line) for line in Path(output, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return {line["step"]: line["evaluation"] for line in lines if line["evaluation"]}


def test_every_due_checkpoint_and_the_last_one_are_evaluated(
    local_ray: None, lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    wanted = Evaluating(benchmarks="mme", data="unused", every_steps=2)
    # The run is over before the first look at its checkpoints, and only one of them is kept.
    saving = Saving(keep=1)
    job = build_job(lessons, checkpoint, tmp_path / "run", evaluation=wanted, saving=saving)
    outcome = run_stage(job, CountBytes(broken=(4,)))
    assert (outcome.exit_code, outcome.steps) == (0, 5)
    # Step 4 failed: training went on, and the others were evaluated.
    assert [one.step for one in outcome.evaluations] == [2, 4, 5]
    assert outcome.evaluations == read_evaluations(str(tmp_path / "run"))
    good, failed = [outcome.evaluations[n] for n in (0, 2)], outcome.evaluations[1]
    assert [one.scores["mme perception"] for one in good] == [2.0, 5.0]
    assert all(one.scores["bytes"] > 1e6 for one in good)
    assert (failed.scores, failed.problem) == ({}, "the engine does not start")
    assert "evaluation at step 2: mme perception 2.00" in outcome.as_text()
    assert "evaluation at step 4: none: the engine does not start" in outcome.as_text()
    assert [one.step for one in list_checkpoints(job.output)] == [5]
    assert _read_scores(job.output) == {2: good[0].scores, 5: good[1].scores}
    assert "Evaluation: mme perception" in (tmp_path / "run/report.html").read_text()
    board = _read_board(tmp_path / "run/tensorboard")
    assert {key: v for key, v in board.items() if key[0] == "evaluation/mme_perception"} == {
        ("evaluation/mme_perception", 2): 2.0,
        ("evaluation/mme_perception", 5): 5.0,
    }
    # Models are removed once they are evaluated.
    assert not list((tmp_path / "run/evaluations").glob("step-00000[25]/model/*"))

    again = run_stage(job, CountBytes())  # the model of step 4 is still there
    assert [one.scores["mme perception"] for one in again.evaluations] == [2.0, 4.0, 5.0]
    assert list(_read_scores(job.output)) == [2, 4, 5]


def test_a_full_disk_removes_checkpoints_unevaluated_and_the_records_name_them(
    local_ray: None,
    lessons: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: used._replace(free=1000))
    monkeypatch.setattr(evaluations.CheckpointEvaluations, "_watch", lambda self: None)
    wanted = Evaluating(benchmarks="mme", data="unused", every_steps=1)
    job = build_job(lessons, checkpoint, tmp_path / "run", evaluation=wanted, saving=Saving(keep=1))
    outcome = run_stage(job, CountBytes())
    assert outcome.exit_code == 0
    assert [one.step for one in outcome.evaluations] == [1, 2, 3, 4, 5]
    gone = [one.step for one in outcome.evaluations if one.problem]
    assert gone == [1, 2, 3, 4]
    text = outcome.as_text()
    for step in gone:
        assert f"evaluation at step {step}: none: the disk had no room for its checkpoint" in text
    assert [one.step for one in list_checkpoints(job.output)] == [5]


def _write_manifests(output: Path, steps: int) -> None:
    for step in range(1, steps + 1):
        folder = output / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(asdict(Manifest(step, "", 0, 0))))


def test_a_checkpoint_that_is_removed_while_they_are_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_manifests(tmp_path, 3)
    list_files = storage.list_files

    def list_and_prune(folder: str) -> list[storage.StoredFile]:
        found = list_files(folder)
        shutil.rmtree(tmp_path / "checkpoints/step-00000001")
        return found

    monkeypatch.setattr(storage, "list_files", list_and_prune)
    assert [one.step for one in list_checkpoints(str(tmp_path))] == [2, 3]


def test_only_checkpoints_that_are_awaited_outlast_the_newest_ones(tmp_path: Path) -> None:
    output = str(tmp_path)
    _write_manifests(tmp_path, 6)
    due = DueSteps(output, every=2, last=5)
    assert due.list_due(6) == [2, 4, 5, 6]
    prune(output, 1, due.is_awaited)
    assert [one.step for one in list_checkpoints(output)] == [2, 4, 5, 6]
    mark_taken(output, 4)
    prune(output, 1, due.is_awaited)
    assert [one.step for one in list_checkpoints(output)] == [2, 5, 6]
    prune(output, 1, lambda step: False)
    assert [one.step for one in list_checkpoints(output)] == [6]


def test_training_keeps_the_checkpoints_that_no_evaluation_has_taken(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    wanted = Evaluating(benchmarks="mme", data="unused", every_steps=2)
    saving = Saving(every_steps=1, keep=1)
    job = build_job(lessons, checkpoint, tmp_path / "run", evaluation=wanted, saving=saving)
    _, spec = prepare_run(check_stage(job))
    mark_taken(spec.output, 2)
    with open_local_world("cpu") as world:
        due = DueSteps(spec.output, 2, spec.steps)
        train(replace(spec, due=due), world, LocalSession(lambda metrics: None))
    assert [one.step for one in list_checkpoints(spec.output)] == [4, 5]


class _Service:
    """A service that keeps what it gets."""

    def __init__(self) -> None:
        self.scores: list[tuple[int, dict[str, float], int]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert "evaluation" not in values

    def log_scores(self, step: int, scores: Mapping[str, float], now: int) -> None:
        self.scores.append((step, dict(scores), now))

    def close(self) -> None:
        pass


def _step(number: int) -> StepMetrics:
    return StepMetrics(number, 0, 1.0, 0.1, 1.0, 4, 0, 4, 90, 9, 0.0, 1.0, 0, 0, 4.0, 90.0, None, 0)


def test_scores_join_the_metrics_and_the_services_once_however_late_they_are(
    tmp_path: Path,
) -> None:
    output = str(tmp_path)
    trackers, service = Trackers((), output, "", {}), _Service()
    trackers._open["service"] = service
    log = MetricsLog(output, 1, trackers)
    for number in range(1, 4):
        log.add(_step(number))
    record_evaluation(output, Evaluation(2, {"mme perception": 7.0}))
    log.flush()
    log.flush()
    assert service.scores == [(2, {"evaluation/mme_perception": 7.0}, 3)]
    assert _read_scores(output) == {2: {"mme perception": 7.0}}
    log.add(_step(4))
    log.close()
    record_evaluation(output, Evaluation(4, {"mme perception": 8.0}))
    record_evaluation(output, Evaluation(3, problem="no engine"))
    for _ in range(2):
        add_late_scores(output, lambda: trackers)
    assert service.scores[1:] == [(4, {"evaluation/mme_perception": 8.0}, 4)]
    assert list(_read_scores(output)) == [2, 4]
    resumed = MetricsLog(output, 4)  # step 4 is done again
    resumed.add(_step(4))
    resumed.close()
    assert list(_read_scores(output)) == [2, 4]


def test_mlflow_gets_the_scores_at_their_steps(
    local_ray: None,
    lessons: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    wanted = Evaluating(benchmarks="mme", data="unused", every_steps=2)
    job = build_job(lessons, checkpoint, tmp_path / "run", evaluation=wanted, log_to=("mlflow",))
    for _ in range(2):  # a second start has nothing to add
        run_stage(job, CountBytes())
    client = MlflowClient()
    experiment = client.get_experiment_by_name("s4v")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "evaluation/mme_perception")
    assert sorted((point.step, point.value) for point in points) == [(2, 2.0), (4, 4.0), (5, 5.0)]
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 5


def test_wandb_gets_the_scores_offline(
    local_ray: None,
    lessons: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wanted = Evaluating(benchmarks="mme", data="unused", every_steps=2)
    job = build_job(lessons, checkpoint, tmp_path / "run", evaluation=wanted, log_to=("wandb",))
    assert run_stage(job, CountBytes()).exit_code == 0
    records = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    data = b"".join(record.read_bytes() for record in records)
    assert all(name in data for name in (b"evaluation/mme_perception", b"evaluation/step", b"loss"))


@pytest.mark.slow
def test_an_evaluation_changes_no_step_and_may_be_added_later(
    local_ray: None, lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    plain = run_stage(build_job(lessons, checkpoint, tmp_path / "plain", max_steps=2))
    wanted = Evaluating(benchmarks="mme", data="unused", every_steps=1, wait_min=0)
    job = build_job(lessons, checkpoint, tmp_path / "run", max_steps=2, evaluation=wanted)
    evaluated = run_stage(job, CountBytes())
    assert [m.loss for m in plain.metrics] == [m.loss for m in evaluated.metrics]
    assert evaluated.exit_code == 0
    later = build_job(lessons, checkpoint, tmp_path / "plain", max_steps=2, evaluation=wanted)
    wait = later.replace(evaluation=wanted.replace(wait_min=2))
    assert [one.step for one in run_stage(wait, CountBytes()).evaluations] == [2]


def test_benchmarks_need_their_files() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.data: found none"):
        Evaluating(benchmarks="mme")
