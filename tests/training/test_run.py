"""Whole runs in one process: exact resumption, what moves and what stays, what is refused."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from s4v_core.errors import ConfigError, InputError, S4VError
from s4v_core.model.checkpoint_export import export_checkpoint
from s4v_core.model.processor import build_processor
from s4v_core.training.checks import check_stage
from s4v_core.training.data import order
from s4v_core.training.export import MODEL
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Learning, Optimiser, Saving, TrainStage
from s4v_core.training.worker.checkpoints import list_checkpoints
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import StepMetrics, read_metrics
from s4v_core.training.worker.world import open_local_world
from tests.conftest import photo
from tests.model.untrained import IMAGE_PX, PATCH_PX, untrained_config, untrained_tokenizer

Job = Callable[..., TrainStage]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-one samples: every third is text alone, two images are broken."""
    folder = tmp_path_factory.mktemp("lessons")
    records = []
    for number in range(21):
        has_image = number % 3 != 0
        if has_image:
            data = photo(number, (90, 70))
            broken = number in (4, 10)
            (folder / f"{number}.jpg").write_bytes(data[:200] if broken else data)
        turns = [
            {"from": "human", "value": "What is this?" + ("\n<image>" if has_image else "")},
            {"from": "gpt", "value": f"A red circle and {'a blue square ' * (number % 5)}."},
        ]
        image = {"image": f"{number}.jpg"} if has_image else {}
        records.append({"id": str(number), "conversations": turns} | image)
    (folder / "data.json").write_text(json.dumps(records))
    return folder


@pytest.fixture
def job(lessons: Path, checkpoint: Path, tmp_path: Path) -> Job:
    def build(**changes: Any) -> TrainStage:
        settings: dict[str, Any] = {
            "stage": "finetune",
            "data": (str(lessons / "data.json"),),
            "model": str(checkpoint),
            "output": str(tmp_path / "run"),
            "template": "vicuna_v1",
            "image_mode": "pad",
            "learning": Learning(vision_from=1),
            "batch_size": 4,
            "device_batch_size": 2,
            "epochs": 2,
            "optimiser": Optimiser(learning_rate=1e-3),
            "device": "cpu",
            "loader_workers": 0,
            "group_by_modality": True,
            "max_missing_share": 0.2,
            "expected": {"samples": 21, "tokens": 60, "learnt": 20},
        }
        return TrainStage.model_validate(settings | changes)

    return build


def _stopped_after(job: TrainStage, steps: int) -> None:
    """A run that is asked to stop, as by Ctrl-C."""
    _, spec = prepare_run(check_stage(job))
    session = LocalSession(
        lambda metrics: session.request_stop() if metrics.step >= steps else None
    )
    with open_local_world("cpu") as world:
        train(spec, world, session)


def _died_after(job: TrainStage, steps: int) -> None:
    """A run whose process is gone from one step to the next."""
    _, spec = prepare_run(check_stage(job))

    def die(metrics: StepMetrics) -> None:
        if metrics.step == steps:
            raise KeyboardInterrupt

    with open_local_world("cpu") as world, pytest.raises(KeyboardInterrupt):
        train(spec, world, LocalSession(die))


def _losses(output: str) -> list[float]:
    return [metrics.loss for metrics in read_metrics(output)]


def test_a_resumed_run_is_the_run_that_was_never_interrupted(job: Job, tmp_path: Path) -> None:
    whole = run_stage(job(output=str(tmp_path / "whole")))
    # 21 samples in steps of 4: six steps an epoch, resumed in the first and in the second one.
    parts = job(saving=Saving(every_steps=2))
    _stopped_after(parts, 3)
    _died_after(parts, 9)
    resumed = run_stage(parts)
    assert whole.done == resumed.done == 12
    assert _losses(resumed.output) == pytest.approx(_losses(whole.output), abs=1e-6)
    for one in (whole, resumed):
        assert (one.audit.seen, one.audit.twice, one.audit.left_out) == (42, 0, 0)
        assert one.audit.skipped == {"truncated": 4}
        assert one.exit_code == 0
    weights = [load_file(Path(o.model or "") / "model.safetensors") for o in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [m.step for m in list_checkpoints(resumed.output)] == [10, 12]


def test_steps_take_all_the_time_there_is(job: Job) -> None:
    _, spec = prepare_run(check_stage(job(max_steps=4)))
    reported: list[float] = []

    def report(metrics: StepMetrics) -> None:
        reported.append(time.monotonic())
        time.sleep(0.5)  # a driver far away: the next step pays for it

    with open_local_world("cpu") as world:
        train(spec, world, LocalSession(report))
    first, *later = read_metrics(spec.output)
    assert sum(m.step_s for m in later) == pytest.approx(reported[-1] - reported[0], abs=1.0)
    assert all(m.data_wait_s + m.checkpoint_wait_s <= m.step_s for m in (first, *later))


def test_a_finished_run_is_not_run_again(job: Job) -> None:
    first = run_stage(job(max_steps=2))
    again = run_stage(job(max_steps=2))
    assert again.model == first.model
    assert again.metrics == first.metrics


def test_the_exported_model_loads_and_is_the_trained_one(job: Job) -> None:
    outcome = run_stage(job(max_steps=3))
    assert outcome.model
    model, about = LlavaForConditionalGeneration.from_pretrained(
        outcome.model, output_loading_info=True
    )
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    processor = json.loads((Path(outcome.model) / "processor_config.json").read_text())
    assert processor["image_processor"]["do_pad"] is True


def _deep(folder: Path) -> Path:
    """A tower of 24 thin blocks, as many as CLIP ViT-L has."""
    tokenizer = untrained_tokenizer()
    config = untrained_config(tokenizer)
    config.vision_config.num_hidden_layers = 24
    torch.manual_seed(0)
    processor = build_processor(tokenizer, IMAGE_PX, PATCH_PX, pad=False)
    export_checkpoint(LlavaForConditionalGeneration(config), processor, folder)
    return folder


@pytest.mark.parametrize(
    ("learning", "moves"),
    [(Learning(vision_from=12), set(range(12, 23))), (Learning(), set())],
    ids=["pretrain", "finetune"],
)
def test_what_learns_moves_and_nothing_else(
    job: Job, tmp_path: Path, learning: Learning, moves: set[int]
) -> None:
    start = _deep(tmp_path / "deep")
    outcome = run_stage(job(model=str(start), learning=learning, max_steps=2))
    before = load_file(start / "model.safetensors")
    after = load_file(Path(outcome.model or "") / "model.safetensors")
    moved = {n for n in before if not torch.equal(before[n].bfloat16(), after[n])}
    blocks = {int(n.split(".")[4]) for n in moved if ".encoder.layers." in n}
    assert blocks == moves
    assert not [n for n in moved if n.startswith("vision_tower.") and ".encoder." not in n]
    assert [n for n in moved if n.startswith("multi_modal_projector.")]
    assert [n for n in moved if n.startswith("language_model.")]


def test_weights_gradients_and_moments_are_fp32_under_bf16(checkpoint: Path) -> None:
    from s4v_core.training.worker.fsdp_units import Switches
    from s4v_core.training.worker.sharding import build_sharded_module

    with open_local_world("cpu") as world:
        module = build_sharded_module(
            checkpoint, Learning(), world.mesh, torch.bfloat16, Switches()
        )
        learning = [p for p in module.parameters() if p.requires_grad]
        before = [p.full_tensor().clone() for p in learning]
        optimiser = torch.optim.AdamW(learning, lr=2e-5, weight_decay=0.0)
        for _ in range(100):
            for parameter in learning:
                parameter.grad = torch.ones_like(parameter)
            optimiser.step()
        assert {p.dtype for p in learning} == {torch.float32}
        assert {s["exp_avg"].dtype for s in optimiser.state.values()} == {torch.float32}
        # 100 steps of 2e-5 in one direction: bf16 weights would have stood still.
        for was, parameter in zip(before, learning, strict=True):
            torch.testing.assert_close(was - parameter.full_tensor(), torch.full_like(was, 2e-3))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"seed": 1}, ConfigError, "was made with seed 0, found 1"),
        ({"learning": Learning()}, ConfigError, "was made with learning"),
    ],
)
def test_an_output_belongs_to_one_run(
    job: Job, changes: dict[str, Any], error: type[S4VError], sentence: str
) -> None:
    _stopped_after(job(), 1)
    with pytest.raises(error, match=sentence):
        run_stage(job(**changes))
    assert len(list_checkpoints(job().output)) == 1


def test_a_run_is_resumed_only_in_the_order_it_began_with(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stopped_after(job(), 1)
    _, spec = prepare_run(check_stage(job()))
    monkeypatch.setattr(order, "VERSION", 2)
    with pytest.raises(ConfigError, match="was made with order_version 1, found 2"):
        run_stage(job())
    _, other = prepare_run(check_stage(job(output=job().output + "-2")))
    assert other.digest != spec.digest


def test_a_run_without_an_order_version_has_the_first_one(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stopped_after(job(), 1)
    about = Path(job().output) / "run.json"
    settings = json.loads(about.read_text())
    del settings["settings"]["order_version"]
    about.write_text(json.dumps(settings))
    check_stage(job())
    monkeypatch.setattr(order, "VERSION", 2)
    with pytest.raises(ConfigError, match="was made with order_version 1, found 2"):
        check_stage(job())


def test_more_workers_than_samples_in_a_step_are_refused(job: Job) -> None:
    assert job(batch_size=250, workers=2, device_batch_size=16).rounds == 8
    with pytest.raises(ConfigError, match=r"batch_size: found 4, .* allowed 6 or more"):
        job(batch_size=4, workers=6)


def test_a_job_in_which_nothing_learns_is_refused(job: Job) -> None:
    with pytest.raises(ConfigError, match="learning: found no part that learns"):
        job(learning=Learning(projector=False, language=False))


@pytest.mark.parametrize("block", [99, 4, 3])
def test_a_block_that_does_not_exist_or_never_learns_is_refused_and_nothing_is_written(
    job: Job, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = {"model": "new:demo", "demo_scenes": 4, "images": ("out",)}
    for changes in ({}, demo):
        one = job(learning=Learning(vision_from=block), **changes)
        with pytest.raises(ConfigError, match=f"vision_from: found {block}, allowed 0 to"):
            run_stage(one)
        assert not Path(one.output).exists()
        assert not Path("out").exists()


def test_missing_images_are_listed_and_too_many_refused(job: Job, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A cat."}]
    (tmp_path / "a.jpg").write_bytes(photo(1, (60, 60)))
    records = [{"id": n, "image": f"{n}.jpg", "conversations": turns} for n in "ab"]
    (tmp_path / "data.json").write_text(json.dumps(records))
    data = (str(tmp_path / "data.json"),)
    sentence = r"50.0% of the samples cannot be used \(not_found 1; .*record 2, field image: b.jpg"
    with pytest.raises(InputError, match=sentence):
        run_stage(job(data=data))
    lines = (Path(job().output) / "skipped.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        **{"data": data[0], "record": 2, "sample_id": "b", "reason": "not_found"},
        **{"field": "image", "found": "b.jpg"},
    }
    # The advice of the refusal is followed in the same folder.
    outcome = run_stage(job(data=data, max_missing_share=0.5))
    assert (outcome.samples, outcome.skipped) == (1, {"not_found": 1})


def test_a_model_of_another_kind_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="found bert"):
        check_stage(job(model=str(tmp_path / "bert")))
    (tmp_path / "bert" / "config.json").write_text('{"mm_vision_tower": "x"}')
    with pytest.raises(ConfigError, match=r"convert\.py"):
        check_stage(job(model=str(tmp_path / "bert")))


def test_a_failed_save_ends_the_run_and_leaves_earlier_checkpoints(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4v_core.errors import StorageError

    parts = job(saving=Saving(every_steps=2))
    _stopped_after(parts, 3)
    kept = list_checkpoints(parts.output)
    folder = Path(parts.output) / "checkpoints"
    # A file lies where the next checkpoint's folder would be: the store takes nothing there.
    (folder / "step-00000006").write_text("in the way")
    with pytest.raises(StorageError, match="checkpoint could not be written"):
        run_stage(parts)
    assert list_checkpoints(parts.output) == kept
    (folder / "step-00000006").unlink()
    assert run_stage(parts).done == 12


def test_checkpoints_and_metrics_go_to_any_store(job: Job, bucket: str) -> None:
    outcome = run_stage(job(output=f"{bucket}/run", max_steps=2))
    assert outcome.exit_code == 0
    assert MODEL in (outcome.model or "")
    assert len(read_metrics(f"{bucket}/run")) == 2
    assert [m.step for m in list_checkpoints(f"{bucket}/run")] == [2]
