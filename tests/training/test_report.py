"""The page of a training run: its facts, its samples, and whose files it leaves alone."""

import json
import re
from pathlib import Path
from typing import Any

from s4v_core.training.run import run_stage
from s4v_core.training.stage import Learning, TrainStage
from tests.conftest import photo


def _write_lessons(folder: Path) -> Path:
    folder.mkdir()
    records = []
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(photo(number, (64, 48)))
        turns = [
            {"from": "human", "value": "What is <script>alert(1)</script>?\n<image>"},
            {"from": "gpt", "value": f"Answer number {number} & <b>more</b>."},
        ]
        records.append({"id": f"<{number}>", "image": f"{number}.jpg", "conversations": turns})
    (folder / "3.jpg").write_bytes(b"no image")
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


def _job(folder: Path, checkpoint: Path, **changes: Any) -> TrainStage:
    settings: dict[str, Any] = {
        "stage": "finetune", "data": (str(_write_lessons(folder / "in")),),
        "model": str(checkpoint), "output": str(folder / "run"), "template": "vicuna_v1",
        "image_mode": "pad", "learning": Learning(), "batch_size": 4, "device_batch_size": 4,
        "device": "cpu", "loader_workers": 0, "max_missing_share": 0.5, "validation_share": 0.3,
        "validate_every_steps": 1,
        "expected": {"samples": 8, "tokens": 60, "learnt": 20},
    }  # fmt: skip
    return TrainStage.model_validate(settings | changes)


def test_the_page_shows_curves_lost_images_and_what_is_learnt(
    checkpoint: Path, tmp_path: Path
) -> None:
    outcome = run_stage(_job(tmp_path, checkpoint))
    assert outcome.report == str(tmp_path / "run" / "report.html")
    page = Path(outcome.report).read_text()
    assert f"report: {outcome.report}" in outcome.as_text()
    assert page.count("<polyline") == 7  # loss and held-out loss, and five others
    assert page.count("data:image/jpeg") == 7  # the broken one has no picture
    (reason,) = outcome.audit.skipped
    assert re.search(rf"{reason}</td><td class=number>1<", page)
    learnt = re.findall(r'<span class="learnt">(.*?)</span>', page)
    assert " Answer number 0 &amp; &lt;b&gt;more&lt;/b&gt;.&lt;/s&gt;" in learnt
    assert "<script>" not in page
    assert "default-src 'none'" in page


def test_a_page_of_the_user_stays_and_ours_gets_another_name(
    checkpoint: Path, tmp_path: Path
) -> None:
    job = _job(tmp_path, checkpoint)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("mine")
    outcome = run_stage(job)
    assert outcome.report == str(tmp_path / "run" / "training-report.html")
    assert (tmp_path / "run" / "report.html").read_text() == "mine"
