"""A small set of conversations about drawn photographs, and a job that trains on it."""

import json
from pathlib import Path
from typing import Any

from s4v_core.training.stage import Learning, Optimiser, TrainStage
from tests.conftest import photo


def write_lessons(folder: Path, count: int = 21, broken: tuple[int, ...] = ()) -> Path:
    """Write `count` conversations, every third text alone, every fourth as long as two others."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        has_image = number % 3 != 0
        if has_image:
            data = photo(number, (90, 70))
            (folder / f"{number}.jpg").write_bytes(data[:200] if number in broken else data)
        repeats = 40 if number % 4 == 0 else number % 5
        turns = [
            {"from": "human", "value": "What is this?" + ("\n<image>" if has_image else "")},
            {"from": "gpt", "value": f"A red circle and {'a blue square ' * repeats}."},
        ]
        image = {"image": f"{number}.jpg"} if has_image else {}
        records.append({"id": str(number), "conversations": turns} | image)
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def build_job(lessons: Path, model: Path, output: Path, **changes: Any) -> TrainStage:
    """A job of three steps or more that learns in every part but the first vision block."""
    settings: dict[str, Any] = {
        "stage": "finetune",
        "data": (str(lessons / "data.json"),),
        "model": str(model),
        "output": str(output),
        "template": "vicuna_v1",
        "image_mode": "pad",
        "learning": Learning(vision_from=1),
        "batch_size": 8,
        "device_batch_size": 4,
        "optimiser": Optimiser(learning_rate=1e-3, eps=1e-5, weight_decay=0.1),
        "device": "cpu",
        "loader_workers": 0,
        "max_missing_share": 0.2,  # two of the photos are broken
        "expected": {"samples": 21, "tokens": 60, "learnt": 20},
    }
    return TrainStage.model_validate(settings | changes)
