"""The held-out loss: which samples, what it is, and that measuring it changes nothing."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tensorboardX.proto.event_pb2 import Event
from transformers import LlavaForConditionalGeneration

from s4v_core.errors import ConfigError
from s4v_core.training.checks import check_stage
from s4v_core.training.data.order import Order
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Saving, TrainStage
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import read_metrics
from s4v_core.training.worker.world import join_world, open_local_world
from tests.training.lessons import build_job, write_lessons
from tests.training.recomputation import sum_loss
from tests.training.small_run import train_until

HELD_OUT = 0.2


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"))


def _job(lessons: Path, checkpoint: Path, output: Path, **changes: Any) -> TrainStage:
    settings = {"validation_share": HELD_OUT, "validate_every_steps": 2, "epochs": 2} | changes
    return build_job(lessons, checkpoint, output, **settings)


def _losses(output: str) -> list[float | None]:
    return [m.validation_loss for m in read_metrics(output)]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("count", [5, 103])
def test_a_sample_is_held_out_or_trained_on(count: int, grouped: bool) -> None:
    order = Order(np.arange(count) % 3 != 0, 8, seed=5, epochs=2, grouped=grouped, held_out=0.1)
    held_out = order.build_held_out()
    apart = np.concatenate(held_out.draw_epoch(0))
    assert len(apart) == max(round(count / 10), 1)
    assert len(held_out.draw_epoch(0)) == held_out.steps_per_epoch
    for epoch in range(2):
        steps = order.draw_epoch(epoch)
        assert len(steps) == order.steps_per_epoch
        assert sorted([*np.concatenate(steps), *apart]) == list(range(count))
    other = Order(np.arange(count) % 3 != 0, 8, seed=6, held_out=0.1)
    assert count == 5 or list(other.draw_held_out()) != list(order.draw_held_out())


def test_no_share_leaves_the_order_as_it_was() -> None:
    with_image = np.arange(103) % 3 != 0
    assert len(Order(with_image, 8, 5).draw_held_out()) == 0
    assert Order(with_image, 8, 5).samples_per_epoch == 103


def test_the_loss_is_that_of_the_held_out_samples_alone(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    outcome = run_stage(_job(lessons, checkpoint, tmp_path / "run"))
    assert outcome.exit_code == 0
    assert outcome.audit.seen == 2 * 17
    found = _losses(outcome.output)
    # Every second step, and the last one.
    assert [loss is not None for loss in found] == [False, True, False, True, False, True]
    assert "held-out loss:" in outcome.as_text()
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    _load(model, outcome.output, 6)
    _, spec = prepare_run(check_stage(_job(lessons, checkpoint, tmp_path / "run")))
    from s4v_core.training.worker.components import build_reader

    with open_local_world("cpu") as world, torch.no_grad():
        reader = build_reader(spec, world)
        samples = reader._read(spec.order.draw_held_out())
        parts = [sum_loss(model, sample, spec.collator.image_tokens) for sample in samples]
    expected = sum(float(loss) for loss, _ in parts) / sum(learnt for _, learnt in parts)
    assert found[-1] == pytest.approx(expected, abs=1e-5)


def _load(model: LlavaForConditionalGeneration, output: str, step: int) -> None:
    from s4v_core.training.export import read_checkpoint
    from s4v_core.training.worker.checkpoints import checkpoint_uri

    model.load_state_dict(dict(read_checkpoint(checkpoint_uri(output, step))))


def test_measuring_changes_no_step_and_a_resumed_run_measures_the_same(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    often = run_stage(_job(lessons, checkpoint, tmp_path / "often", validate_every_steps=1))
    rarely = run_stage(_job(lessons, checkpoint, tmp_path / "rarely", validate_every_steps=99))
    assert [m.loss for m in often.metrics] == [m.loss for m in rarely.metrics]
    assert [m.grad_norm for m in often.metrics] == [m.grad_norm for m in rarely.metrics]
    assert often.metrics[-1].validation_loss == rarely.metrics[-1].validation_loss
    parts = _job(
        lessons,
        checkpoint,
        tmp_path / "parts",
        validate_every_steps=1,
        saving=Saving(every_steps=1),
    )
    _, spec = prepare_run(check_stage(parts))
    session = LocalSession(lambda m: session.request_stop() if m.step >= 3 else None)
    with open_local_world("cpu") as world:
        train(spec, world, session)
    assert _losses(run_stage(parts).output) == _losses(often.output)


def _read_board(folder: Path, tag: str) -> dict[int, float]:
    """The values of one curve by step. A record is its length, a checksum, itself, a checksum."""
    found = {}
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            for value in event.summary.value:
                if value.tag == tag:
                    found[event.step] = value.simple_value
            at += 16 + size
    return found


def test_tensorboard_shows_the_steps_where_it_was_measured(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    outcome = run_stage(_job(lessons, checkpoint, tmp_path / "run"))
    points = _read_board(tmp_path / "run" / "tensorboard", "validation_loss")
    found = {m.step: m.validation_loss for m in outcome.metrics if m.validation_loss is not None}
    assert points.keys() == found.keys() == {2, 4, 6}
    assert list(points.values()) == pytest.approx(list(found.values()), rel=1e-6)


def _work(rank: int, workers: int, job: TrainStage, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    _, spec = prepare_run(check_stage(job))
    train(spec, join_world("cpu", job.replicas), LocalSession(lambda metrics: None))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("workers", "replicas", "changes"),
    [
        pytest.param(3, 1, {}, marks=pytest.mark.slow),
        (4, 2, {"prefetch": 1, "reshard_after_forward": False}),
        pytest.param(4, 4, {}, marks=pytest.mark.slow),
    ],
    ids=["three workers", "two copies of the model", "a copy for each"],
)
def test_any_number_of_workers_and_copies_computes_the_same(
    lessons: Path,
    checkpoint: Path,
    tmp_path: Path,
    workers: int,
    replicas: int,
    changes: dict[str, Any],
) -> None:
    alone = run_stage(_job(lessons, checkpoint, tmp_path / "alone", batch_size=12))
    # One sample at a time: each copy adds up several micro-batches before they exchange gradients.
    together = _job(
        lessons,
        checkpoint,
        tmp_path / "together",
        batch_size=12,
        device_batch_size=1,
        workers=workers,
        replicas=replicas,
        **changes,
    )
    prepare_run(check_stage(together))
    mp.spawn(_work, (workers, together, str(tmp_path / "store")), workers)
    found, expected = read_metrics(together.output), alone.metrics
    for name in ("loss", "grad_norm", "learnt_tokens", "samples"):
        assert [getattr(m, name) for m in found] == pytest.approx(
            [getattr(m, name) for m in expected], rel=1e-5, abs=1e-5
        ), name
    losses = zip(_losses(together.output), _losses(alone.output), strict=True)
    assert all(a == b or math.isclose(a or 0, b or 0, rel_tol=1e-5) for a, b in losses)


def test_held_out_images_that_are_gone_give_no_loss_and_end_no_run(
    checkpoint: Path, tmp_path: Path
) -> None:
    lessons = write_lessons(tmp_path / "lessons", count=6)
    job = _job(lessons, checkpoint, tmp_path / "run", batch_size=4, validation_share=0.4)
    job = job.replace(max_missing_share=1.0, epochs=3)
    train_until(job, lambda metrics, session: session.request_stop())
    _, spec = prepare_run(check_stage(job))
    records = json.loads((lessons / "data.json").read_text())
    held_out = [records[n] for n in spec.order.draw_held_out()]
    for record in held_out:
        if "image" in record:
            (lessons / record["image"]).unlink()
    found = _losses(run_stage(job).output)
    has_text = any("image" not in record for record in held_out)
    assert (found[-1] is not None) == has_text
    line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert "NaN" not in line


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"validation_share": 0.99}, "which leaves none to train on; give a smaller share"),
        ({"validation_share": 1.0}, "validation_share: found 1.0"),
        ({"validation_share": -0.1}, "validation_share: found -0.1"),
        ({"validate_every_steps": 0}, "validate_every_steps: found 0"),
    ],
)
def test_a_share_that_leaves_nothing_is_refused(
    lessons: Path, checkpoint: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        prepare_run(check_stage(_job(lessons, checkpoint, tmp_path, **changes)))


def test_the_share_belongs_to_the_run_and_the_rhythm_does_not(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    train_until(
        _job(lessons, checkpoint, tmp_path), lambda metrics, session: session.request_stop()
    )
    check_stage(_job(lessons, checkpoint, tmp_path, validate_every_steps=7))
    with pytest.raises(ConfigError, match=r"was made with validation_share 0.2, found 0.1"):
        check_stage(_job(lessons, checkpoint, tmp_path, validation_share=0.1))
