"""Several real workers over gloo, without Ray: uneven shares, text alone, nothing at all."""

import json
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from s4v_core.training.checks import check_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Learning, Optimiser, TrainStage
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.sample_log import audit_samples
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import StepMetrics, read_metrics
from s4v_core.training.worker.world import join_world
from tests.conftest import photo

WORKERS = 3


def _job(folder: Path, checkpoint: Path, output: Path) -> TrainStage:
    # Steps of 4 for 3 workers: shares differ; the last step's one sample leaves two with none.
    return TrainStage(
        stage="finetune",
        data=(str(folder / "data.json"),),
        model=str(checkpoint),
        output=str(output),
        template="vicuna_v1",
        image_mode="pad",
        learning=Learning(vision_from=1),
        batch_size=4,
        device_batch_size=1,
        optimiser=Optimiser(learning_rate=1e-3),
        device="cpu",
        loader_workers=0,
        expected={"samples": 9, "tokens": 60, "learnt": 20},
    )


def _lessons(folder: Path) -> Path:
    folder.mkdir()
    records = []
    for number in range(9):
        said = [
            {"from": "human", "value": "What is this?"},
            {"from": "gpt", "value": "A red circle. " * (number + 1)},
        ]
        record = {"id": str(number), "conversations": said}
        if number % 2:
            (folder / f"{number}.jpg").write_bytes(photo(number, (90, 70)))
            record["image"] = f"{number}.jpg"
        records.append(record)
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def _work(rank: int, job: TrainStage, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORKERS)
    _, spec = prepare_run(check_stage(job))
    train(spec, join_world("cpu"), LocalSession(lambda metrics: None))
    dist.destroy_process_group()


def _numbers(metrics: list[StepMetrics]) -> list[float]:
    return [number for m in metrics for number in (m.loss, m.grad_norm, m.samples, m.images)]


def test_uneven_workers_are_one_process(checkpoint: Path, tmp_path: Path) -> None:
    lessons = _lessons(tmp_path / "lessons")
    alone = run_stage(_job(lessons, checkpoint, tmp_path / "alone"))
    together = _job(lessons, checkpoint, tmp_path / "together")
    prepare_run(check_stage(together))
    mp.spawn(_work, (together, str(tmp_path / "store")), WORKERS)
    metrics = read_metrics(together.output)
    assert [m.step for m in metrics] == [1, 2, 3]
    assert _numbers(metrics) == pytest.approx(_numbers(alone.metrics), abs=1e-5)
    found = audit_samples(together.output, samples=9, steps_per_epoch=3, steps=3)
    assert (found.seen, found.twice, found.left_out) == (9, 0, 0)
