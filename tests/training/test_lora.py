"""LoRA: what learns, exact resumption, the exported files, and what cannot be trained so."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from s4v_core.errors import ConfigError
from s4v_core.training.checks import check_stage
from s4v_core.training.lora import LANGUAGE_TARGETS, PROJECTOR_TARGETS, Lora
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Learning, Saving, TrainStage
from s4v_core.training.worker.adapters import draw_adapter
from s4v_core.training.worker.checkpoints import Checkpoints
from s4v_core.training.worker.components import build_module, build_optimiser
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import read_metrics
from s4v_core.training.worker.world import open_local_world
from tests.training.lessons import build_job, write_lessons
from tests.training.recomputation import list_samples, sum_loss

RANK, ALPHA = 4, 8.0
EVERYWHERE = (*LANGUAGE_TARGETS, *PROJECTOR_TARGETS)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"))


def _job(lessons: Path, checkpoint: Path, output: Path, **changes: Any) -> TrainStage:
    lora = Lora(rank=RANK, alpha=ALPHA, targets=EVERYWHERE)
    settings = {"lora": lora, "learning": Learning(), "epochs": 2} | changes
    return build_job(lessons, checkpoint, output, **settings)


def _stop_after(job: TrainStage, steps: int) -> None:
    _, spec = prepare_run(check_stage(job))
    session = LocalSession(lambda m: session.request_stop() if m.step >= steps else None)
    with open_local_world("cpu") as world:
        train(spec, world, session)


def _merge(start: Path, adapter: Path) -> LlavaForConditionalGeneration:
    """The start model in fp32 with an adapter folder added, by PEFT's rule and nothing of ours."""
    model = LlavaForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    config = json.loads((adapter / "adapter_config.json").read_text())
    matrices = load_file(adapter / "adapter_model.safetensors")
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name in [name for name in matrices if ".lora_A." in name]:
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = matrices[name.replace(".lora_A.", ".lora_B.")]
            added = up @ matrices[name] * (config["lora_alpha"] / config["r"])
            weights[layer + ".weight"] += added
    return model


def test_a_run_learns_resumes_bitwise_and_exports_what_it_learnt(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    whole = run_stage(_job(lessons, checkpoint, tmp_path / "whole"))
    parts = _job(lessons, checkpoint, tmp_path / "parts", saving=Saving(every_steps=2))
    _stop_after(parts, 3)
    resumed = run_stage(parts)
    assert whole.exit_code == resumed.exit_code == 0
    assert [m.loss for m in whole.metrics] == [m.loss for m in resumed.metrics]
    assert whole.metrics[-1].loss < whole.metrics[0].loss
    files = ("adapter/adapter_model.safetensors", "model/model.safetensors")
    for name in files:
        found = [load_file(Path(one.output) / name) for one in (whole, resumed)]
        assert all(torch.equal(found[0][n], found[1][n]) for n in found[0]), name
    _compare_losses(lessons, checkpoint, tmp_path)


def _compare_losses(lessons: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The loss of the module with adapters is that of a model with merged weights."""
    job = _job(lessons, checkpoint, tmp_path / "whole")
    _, spec = prepare_run(check_stage(job))
    merged = _merge(checkpoint, tmp_path / "whole" / "adapter")
    samples = list(list_samples(spec, 0))
    with open_local_world("cpu") as world, torch.no_grad():
        module = build_module(spec, world)
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimiser = build_optimiser(parameters, job.optimiser)
        Checkpoints(spec.output, 1, world, 10.0, learning_only=True).restore_newest(
            module, optimiser
        )
        for sample in samples:
            found = module(spec.collator.collate([sample]))
            expected, learnt = sum_loss(merged, sample, spec.collator.image_tokens)
            assert float(found) / learnt == pytest.approx(float(expected) / learnt, abs=1e-5)
    exported = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    start = load_file(checkpoint / "model.safetensors")
    moved = {n for n in start if not torch.equal(exported[n], start[n].bfloat16())}
    assert moved
    assert all(re.search("|".join(EVERYWHERE), n) and "vision" not in n for n in moved)
    for name, weight in merged.named_parameters():
        disk = name.replace("model.language_model.", "language_model.model.")
        disk = disk.replace("model.multi_modal_projector.", "multi_modal_projector.")
        if disk in moved:
            assert torch.equal(exported[disk], weight.detach().bfloat16()), disk


def test_logits_of_the_merged_model_are_those_of_the_adapter_in_peft(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    outcome = run_stage(_job(lessons, checkpoint, tmp_path / "run"))
    adapter = Path(outcome.output) / "adapter"
    base = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    tuned = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
    merged = _merge(checkpoint, adapter).eval()
    loaded = {n for n, _ in tuned.named_parameters() if ".lora_" in n}
    assert not [n for n in loaded if "vision_tower" in n]
    assert len(loaded) == len(load_file(adapter / "adapter_model.safetensors"))
    ids = torch.tensor([[1, 40, *[base.config.image_token_id] * 16, 50, 60, 70]])
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = [m(input_ids=ids, pixel_values=pixels).logits for m in (tuned, merged)]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)


def test_checkpoints_hold_adapters_alone(lessons: Path, checkpoint: Path, tmp_path: Path) -> None:
    from s4v_core.training.export import read_checkpoint
    from s4v_core.training.worker.checkpoints import checkpoint_uri

    job = _job(lessons, checkpoint, tmp_path / "run", max_steps=1)
    run_stage(job)
    found = dict(read_checkpoint(checkpoint_uri(job.output, 1)))
    assert found
    assert all(".lora_" in name for name in found)


def test_an_adapter_alone_is_exported_where_no_merged_model_is_wanted(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    lora = Lora(rank=RANK, merge=False)
    job = _job(lessons, checkpoint, tmp_path / "run", lora=lora, max_steps=1)
    outcome = run_stage(job)
    assert outcome.exit_code == 0
    assert outcome.model == str(tmp_path / "run" / "adapter")
    assert not (tmp_path / "run" / "model").exists()
    names = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert len(names) == 2 * 2 * len(LANGUAGE_TARGETS)
    assert all("language_model.layers" in name for name in names)
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert f"base_model: {checkpoint}" in card
    assert "LoRA, rank 4, alpha 16, on q_proj" in card
    assert "LoRA adapter in PEFT's layout" in card
    assert run_stage(job).metrics == outcome.metrics  # not run again


@pytest.mark.parametrize(
    ("learning", "targets", "parts"),
    [
        (Learning(projector=False), EVERYWHERE, {"language_model"}),
        (Learning(language=False), EVERYWHERE, {"multi_modal_projector"}),
        (Learning(), ("q_proj", "linear_2"), {"language_model", "multi_modal_projector"}),
    ],
)
def test_adapters_are_where_the_parts_learn(
    lessons: Path,
    checkpoint: Path,
    tmp_path: Path,
    learning: Learning,
    targets: tuple[str, ...],
    parts: set[str],
) -> None:
    lora = Lora(rank=2, targets=targets)
    _, spec = prepare_run(
        check_stage(_job(lessons, checkpoint, tmp_path, learning=learning, lora=lora))
    )
    with open_local_world("cpu") as world:
        named = dict(build_module(spec, world).named_parameters())
    learns = [name for name, p in named.items() if p.requires_grad]
    assert all(".lora_" in name for name in learns)
    assert {name.split(".")[2] for name in learns} == parts
    assert {name.split(".")[-3] for name in learns} <= set(targets)


def test_adapters_begin_as_nothing_and_the_same_for_all_workers() -> None:
    down, up = "x.q_proj.lora_A.weight", "x.q_proj.lora_B.weight"
    assert not draw_adapter(up, (8, 4), 0).any()
    first = draw_adapter(down, (4, 64), 0)
    assert torch.equal(first, draw_adapter(down, (4, 64), 0))
    assert not torch.equal(first, draw_adapter(down, (4, 64), 1))
    assert not torch.equal(first, draw_adapter("y" + down, (4, 64), 0))
    assert 0.9 / 8 < float(first.abs().max()) <= 1 / 8


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora": {"rank": 4, "targets": ("qproj",)}}, "lora.targets: found qproj, allowed q_proj"),
        ({"lora": {"rank": 4, "targets": ()}}, "lora.targets: found none, allowed q_proj"),
        ({"lora": {"rank": -1}}, "rank: found -1"),
        ({"lora": {"rank": 4, "alpha": 0}}, "alpha: found 0"),
        ({"lora": {"rank": 4, "targets": ("out_proj",)}}, "lora.targets: found out_proj"),
        ({"learning": Learning(vision_from=1)}, "lora.rank: found a vision tower that learns"),
        ({"learning": Learning(vision_stem=True)}, "lora.rank: found a vision tower that learns"),
        (
            {"learning": Learning(language=False), "lora": {"rank": 4}},
            "which are all in parts that do not learn",
        ),
        (
            {"learning": Learning(projector=False), "lora": {"rank": 4, "targets": ("linear_1",)}},
            "which are all in parts that do not learn",
        ),
        ({"learning": Learning(language=False, projector=False)}, "found no part that learns"),
    ],
)
def test_adapters_that_cannot_be_trained_are_refused(
    lessons: Path, checkpoint: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        _job(lessons, checkpoint, tmp_path, **changes)


def test_a_run_is_not_resumed_with_another_adapter(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    _stop_after(_job(lessons, checkpoint, tmp_path), 1)
    for lora in (Lora(rank=8, alpha=ALPHA, targets=EVERYWHERE), Lora()):
        with pytest.raises(ConfigError, match="was made with lora"):
            check_stage(_job(lessons, checkpoint, tmp_path, lora=lora))
    assert len(read_metrics(str(tmp_path))) == 2
