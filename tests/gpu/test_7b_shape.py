"""Twenty steps of the 7B shape, random weights, bf16, activation checkpointing, on one GPU.

Prints tokens/s and utilisation (`pytest -m gpu`). Weights, gradients and both moments
in fp32 take 113 GB: where the GPU is smaller, the language model stays frozen, and the line says
so. Needs 16 GB of disk; nothing is saved but the start.
"""

import sys
from pathlib import Path

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from s4v_core import chat
from s4v_core.demo.scene_files import write_lessons
from s4v_core.demo.texts import build_corpus
from s4v_core.model.builders import build_sharegpt4v_7b_config, build_tokenizer
from s4v_core.model.checkpoint_export import export_checkpoint
from s4v_core.model.processor import build_processor
from s4v_core.training.checks import check_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.stage import Learning, TrainStage
from s4v_core.training.worker.checkpoints import Checkpoints
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import StepMetrics
from s4v_core.training.worker.world import open_local_world
from tests.gpu.switches import CHOICES, format_row, measure_switches

STEPS = 20
WARM_UP_STEPS = 5
BATCH = 16
ALL_LEARNS_GB = 130


def write_random(folder: Path, config: LlavaConfig, device: str) -> None:
    """A checkpoint of this shape whose tokenizer knows the demo's texts."""
    tokenizer = build_tokenizer(build_corpus(), 504)
    image_id = tokenizer.convert_tokens_to_ids(chat.IMAGE)
    config.image_token_index = config.image_token_id = image_id
    config.pad_token_id = config.text_config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    vision = config.vision_config
    processor = build_processor(tokenizer, vision.image_size, vision.patch_size, pad=False)
    export_checkpoint(model, processor, folder)


def measure(
    folder: Path, config: LlavaConfig, device: str, learning: Learning
) -> list[StepMetrics]:
    """The steps of a run behind its warm-up."""
    write_random(folder / "model", config, device)
    write_lessons(folder / "lessons", STEPS * BATCH, seed=1)
    if device == "cuda":
        torch.cuda.empty_cache()
    job = TrainStage(
        stage="pretrain",
        data=(str(folder / "lessons" / "captions.json"),),
        images=(str(folder / "lessons"),),
        model=str(folder / "model"),
        output=str(folder / "run"),
        template="vicuna_v1",
        image_mode="crop",
        learning=learning,
        batch_size=BATCH,
        device_batch_size=BATCH,
        device=device,
        loader_workers=4,
        expected={"samples": STEPS * BATCH, "tokens": 800, "learnt": 60},
    )
    _, spec = prepare_run(check_stage(job))
    steps: list[StepMetrics] = []
    with open_local_world(device) as world:
        train(spec, world, LocalSession(steps.append))
    return steps[WARM_UP_STEPS:]


@pytest.mark.gpu
@pytest.mark.timeout(1500)
def test_twenty_steps_of_the_7b_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Checkpoints, "save", lambda *_: None)  # 84 GB say nothing of the speed
    gpu = torch.cuda.get_device_properties(0)
    whole = gpu.total_memory > ALL_LEARNS_GB * 1e9
    learning = Learning(vision_from=12, language=whole)
    steps = measure(tmp_path, build_sharegpt4v_7b_config(), "cuda", learning)
    seconds = sum(m.step_s for m in steps)
    utilisation = sum((m.mfu or 0) * m.step_s for m in steps) / seconds
    said = (
        f"\n{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, "
        f"language model {'learns' if whole else 'frozen'}: "
        f"{sum(m.tokens for m in steps) / seconds:.0f} tokens/s, "
        f"{sum(m.images for m in steps) / seconds:.2f} images/s, MFU {utilisation:.1%}, "
        f"peak {max(m.memory_gib or 0 for m in steps):.1f} GiB, "
        f"{sum(m.data_wait_s for m in steps) / seconds:.1%} waiting for data\n"
    )
    with capsys.disabled():
        sys.stdout.write(said)
    assert len(steps) == STEPS - WARM_UP_STEPS
    assert all(m.loss < 12 for m in steps)
    assert 0.05 < utilisation < 1


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_a_table_of_switches_of_the_7b_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """Every switch that the GPU has gives the loss of the others, to what bf16 rounds."""
    config = build_sharegpt4v_7b_config()
    rows = []
    for row in measure_switches(config, "cuda", BATCH, 11, CHOICES):
        rows.append(row)
        with capsys.disabled():
            sys.stdout.write(format_row(row) + "\n")
    losses = {row.name: row.loss for row in rows if not row.problem and "LoRA" not in row.name}
    assert len(losses) > 2
    assert list(losses.values()) == pytest.approx([losses[CHOICES[0].name]] * len(losses), rel=0.02)
