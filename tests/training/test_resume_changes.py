"""Settings that change nothing that is learnt may change when a run is resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from s4v_core.errors import ConfigError
from s4v_core.training.checks import check_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Saving, TrainStage
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.sample_log import audit_samples
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import read_metrics
from s4v_core.training.worker.world import join_world
from tests.training.small_run import build_job, stop_after, write_photo_lessons

STEPS, SAMPLES = 6, 48

CHANGES: list[dict[str, Any]] = [
    {"device_batch_size": 1},
    {"device_batch_size": 3},
    {"device_batch_size": 64},
    {"activation_checkpointing": False},
    {"loader_workers": 1},
    {"max_missing_share": 0.5, "max_failures": 9, "store_patience_s": 5.0},
    {"saving": Saving(every_steps=1, keep=1, grace_s=1)},
]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_lessons(tmp_path_factory.mktemp("world") / "lessons", 36, text_alone=12)


@pytest.fixture(scope="module")
def losses(
    lessons: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The losses of the run that is never interrupted."""
    job = _build(lessons, checkpoint, tmp_path_factory.mktemp("whole") / "run")
    assert run_stage(job).exit_code == 0
    return [m.loss for m in read_metrics(job.output)]


def _build(lessons: Path, checkpoint: Path, output: Path, **more: Any) -> TrainStage:
    return build_job(
        lessons, checkpoint, output, **{"batch_size": 8, "device_batch_size": 4} | more
    )


def _prove(output: str, losses: list[float]) -> None:
    assert [m.loss for m in read_metrics(output)] == pytest.approx(losses, abs=1e-4)
    found = audit_samples(output, samples=SAMPLES, steps_per_epoch=STEPS, steps=STEPS)
    assert (found.seen, found.twice, found.left_out, found.skipped) == (SAMPLES, 0, 0, {})


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes))
def test_a_run_goes_on_with_other_settings(
    lessons: Path, checkpoint: Path, tmp_path: Path, losses: list[float], changes: dict[str, Any]
) -> None:
    job = _build(lessons, checkpoint, tmp_path / "run")
    stop_after(job, 2)
    assert run_stage(job.replace(**changes)).exit_code == 0
    _prove(job.output, losses)


@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"max_tokens": 50}, {"template": "plain"}])
def test_settings_that_change_what_is_learnt_stay_frozen(
    lessons: Path, checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = _build(lessons, checkpoint, tmp_path / "run")
    stop_after(job, 1)
    with pytest.raises(ConfigError, match=f"was made with {next(iter(changes))}"):
        run_stage(job.replace(**changes))


def _work(rank: int, workers: int, job: TrainStage, store: str, last: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    _, spec = prepare_run(check_stage(job))
    session = LocalSession(lambda m: session.request_stop() if m.step >= last else None)
    train(spec, join_world("cpu"), session)
    dist.destroy_process_group()


# Eight samples a step: five workers with two at a time share no step equally.
@pytest.mark.parametrize("fleet", [(1, 3, 2), (5, 1, 4)], ids=str)
@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(
    lessons: Path, checkpoint: Path, tmp_path: Path, losses: list[float], fleet: tuple[int, ...]
) -> None:
    job = _build(lessons, checkpoint, tmp_path / "run")
    prepare_run(check_stage(job))
    for turn, workers in enumerate(fleet):
        one = job.replace(workers=workers, device_batch_size=2 + turn)
        store = tmp_path / f"store-{turn}"
        mp.spawn(_work, (workers, one, str(store), 2 * (turn + 1)), workers)
    _prove(job.output, losses)
