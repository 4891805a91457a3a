"""Small runs in one process: conversations about drawn photos, and the job that trains on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s4v_core.training.checks import check_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.stage import Learning, Optimiser, TrainStage
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import StepMetrics
from s4v_core.training.worker.world import open_local_world
from tests.conftest import photo


def write_photo_lessons(folder: Path, count: int, text_alone: int = 0) -> Path:
    """Write `count` conversations about a photo each, and `text_alone` ones without.

    Returns:
        The folder, with `data.json` and the photos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count + text_alone):
        has_image = number < count
        if has_image:
            (folder / f"{number}.jpg").write_bytes(photo(number, (90, 70)))
        turns = [
            {"from": "human", "value": "What is this?" + ("\n<image>" if has_image else "")},
            {"from": "gpt", "value": f"A red circle and {'a blue square ' * (number % 5)}."},
        ]
        image = {"image": f"{number}.jpg"} if has_image else {}
        records.append({"id": f"s{number}", "conversations": turns} | image)
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def build_job(lessons: Path | str, checkpoint: Path, output: Path | str, **more: Any) -> TrainStage:
    """Build a job of steps of four samples, two at a time."""
    settings: dict[str, Any] = {
        "stage": "finetune",
        "data": (f"{lessons}/data.json",),
        "model": str(checkpoint),
        "output": str(output),
        "template": "vicuna_v1",
        "image_mode": "pad",
        "learning": Learning(vision_from=1),
        "batch_size": 4,
        "device_batch_size": 2,
        "optimiser": Optimiser(learning_rate=1e-3),
        "device": "cpu",
        "loader_workers": 0,
        "expected": {"samples": 40, "tokens": 60, "learnt": 20},
    }
    return TrainStage.model_validate(settings | more)


def train_until(job: TrainStage, on_step: Callable[[StepMetrics, LocalSession], None]) -> None:
    """Train in this process without an export.

    Args:
        on_step: Called after each step, with its metrics and the session that can be stopped.
    """
    _, spec = prepare_run(check_stage(job))
    session = LocalSession(lambda metrics: on_step(metrics, session))
    with open_local_world("cpu") as world:
        train(spec, world, session)


def stop_after(job: TrainStage, step: int) -> None:
    """Train until a step, as if Ctrl-C came then."""
    train_until(job, lambda m, session: session.request_stop() if m.step >= step else None)
