"""Checkpoints that are evaluated beside training, as Ray tasks; a failure ends no training."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from s4v_core import storage
from s4v_core.errors import ConfigError
from s4v_core.training.evaluating import Evaluating
from s4v_core.training.evaluations import read_evaluations
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Saving
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


def test_every_due_checkpoint_and_the_last_one_are_evaluated(
    local_ray: None, lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    wanted = Evaluating(benchmarks="mme", data="unused", every_steps=2)
    # The run is over before the first look at its checkpoints, so that all must be kept.
    saving = Saving(keep=5)
    job = build_job(lessons, checkpoint, tmp_path / "run", evaluation=wanted, saving=saving)
    outcome = run_stage(job, CountBytes(broken=(4,)))
    assert (outcome.exit_code, outcome.steps) == (0, 5)
    # Step 4 failed: training went on, and the others were evaluated.
    assert [one.step for one in outcome.evaluations] == [2, 5]
    assert outcome.evaluations == read_evaluations(str(tmp_path / "run"))
    assert [one.scores["mme perception"] for one in outcome.evaluations] == [2.0, 5.0]
    assert all(one.scores["bytes"] > 1e6 for one in outcome.evaluations)
    assert "evaluation at step 2: mme perception 2.00" in outcome.as_text()
    assert "Evaluation: mme perception" in (tmp_path / "run/report.html").read_text()
    board = _read_board(tmp_path / "run/tensorboard")
    assert {key: v for key, v in board.items() if key[0] == "evaluation/mme_perception"} == {
        ("evaluation/mme_perception", 2): 2.0,
        ("evaluation/mme_perception", 5): 5.0,
    }
    # Models are removed once they are evaluated.
    assert not list((tmp_path / "run/evaluations").glob("step-00000[25]/model/*"))

    again = run_stage(job, CountBytes())  # the checkpoint of step 4 is still there
    assert [one.step for one in again.evaluations] == [2, 4, 5]


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
