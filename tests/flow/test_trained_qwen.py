"""vLLM and transformers give the same captions with a Qwen2.5-VL that was trained here."""

import json
from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Expected, Learning, Optimiser, TrainStage
from tests.architectures.qwen import build_qwen2_5_vl
from tests.conftest import photo, write_tar
from tests.flow.oracle import check_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(900),
]


def _train(folder: Path) -> str:
    """Train a small random model for three steps; returns the folder of the exported one."""
    build_qwen2_5_vl(folder / "start")
    records = []
    for number in range(12):
        (folder / f"{number}.jpg").write_bytes(photo(number, (120 + 20 * number, 160)))
        answer = f"A picture of noise, number {number}."
        turns = [
            {"role": "user", "content": "<image>\nDescribe this image."},
            {"role": "assistant", "content": answer},
        ]
        records.append({"images": [f"{number}.jpg"], "messages": turns})
    (folder / "data.json").write_text(json.dumps(records))
    job = TrainStage(
        stage="finetune",
        data=(str(folder / "data.json"),),
        model=str(folder / "start"),
        output=str(folder / "run"),
        template="model",
        image_mode="native",
        learning=Learning(vision_from=0),
        batch_size=4,
        device_batch_size=4,
        optimiser=Optimiser(learning_rate=1e-4),
        device="cpu",
        loader_workers=0,
        expected=Expected(samples=12, tokens=60, learnt=20),
    )
    outcome = run_stage(job)
    assert outcome.exit_code == 0
    assert outcome.model
    return outcome.model


def test_vllm_and_transformers_give_the_same_captions_with_a_trained_qwen(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    model = _train(tmp_path)
    write_tar(tmp_path / "0000.tar", photos)
    captions = []
    for engine in ("vllm", "transformers"):
        job = CaptionJob(
            input=(str(tmp_path / "0000.tar"),),
            output=str(tmp_path / engine),
            model=model,
            engine=engine,  # type: ignore[arg-type]
            sampling=SamplingConfig(max_tokens=16, stop_at_loops=False),
            gate=Gate(enabled=False),
            # Where two tokens are nearly as likely, bf16 would decide by its rounding.
            settings=EngineSettings(max_num_seqs=8, dtype="float32"),
        )
        run_pass(job)
        rows = check_rows(tmp_path / engine)
        assert {row["status"] for row in rows} == {"ok"}
        captions.append({row["image_id"]: row["caption"] for row in rows})
    same = sum(captions[0][name] == captions[1][name] for name in captions[0])
    assert same >= 0.95 * len(photos)
