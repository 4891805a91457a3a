"""Samples that are lost in mid-run: a run never ends well with less learnt than asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s4v_core.errors import ChangedInputError, ConfigError, TrainingError
from s4v_core.training.data.collation import LEFT_OUT
from s4v_core.training.run import run_stage
from s4v_core.training.worker.checkpoints import list_checkpoints
from s4v_core.training.worker.sample_log import audit_samples
from s4v_core.training.worker.sample_watch import SampleWatch
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import StepMetrics, read_metrics
from s4v_core.training.worker.step_totals import StepTotals
from tests.training.small_run import build_job, train_until, write_photo_lessons

Hurt = Callable[[Path], None]


def _vanish(image: Path) -> None:
    image.unlink()


def _replace_by_other(image: Path) -> None:
    image.write_bytes(b"\xff\xd8\xff\xe0 another file of the same name")


def _empty(image: Path) -> None:
    image.write_bytes(b"")


def _become_a_folder(image: Path) -> None:
    image.unlink()
    image.mkdir()


def _loop_as_a_link(image: Path) -> None:
    image.unlink()
    image.symlink_to(image)


def _become_a_pipe(image: Path) -> None:
    import os

    image.unlink()
    os.mkfifo(image)


HURTS = [_vanish, _replace_by_other, _empty, _become_a_folder, _loop_as_a_link, _become_a_pipe]


def _losses(output: str) -> list[float]:
    return [m.loss for m in read_metrics(output)]


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    job = build_job(write_photo_lessons(folder / "lessons", 40), checkpoint, folder / "run")
    assert run_stage(job).exit_code == 0
    return _losses(job.output)


@pytest.mark.parametrize("hurt", HURTS)
def test_images_that_are_lost_in_mid_run_stop_it_and_it_goes_on_when_they_are_back(
    checkpoint: Path, tmp_path: Path, whole: list[float], hurt: Hurt
) -> None:
    lessons = write_photo_lessons(tmp_path / "lessons", 40)
    job = build_job(lessons, checkpoint, tmp_path / "run")
    kept = shutil.copytree(lessons, tmp_path / "kept")

    def hurt_all(metrics: StepMetrics, session: LocalSession) -> None:
        if metrics.step == 3:
            for image in lessons.glob("*.jpg"):
                hurt(image)

    with pytest.raises(TrainingError, match=r"samples .*'s\d+'.*--leave-out FILE") as caught:
        train_until(job, hurt_all)
    assert [m.step for m in list_checkpoints(job.output)] == [caught.value.step - 1]
    assert all(m.learnt_tokens > 0 for m in read_metrics(job.output))
    assert 4 <= caught.value.step <= 6  # a step or two were read ahead
    with pytest.raises((TrainingError, ChangedInputError)):
        run_stage(job)  # still away: nothing is learnt, nothing is exported
    assert not (Path(job.output) / "model").exists()
    for image in lessons.glob("*.jpg"):
        shutil.rmtree(image) if image.is_dir() else image.unlink()
    for image in kept.glob("*.jpg"):
        shutil.copy2(image, lessons / image.name)
    outcome = run_stage(job)
    assert outcome.exit_code == 0
    assert _losses(job.output) == pytest.approx(whole, abs=1e-6)


def test_losses_within_the_allowed_share_are_told_and_no_failure(
    checkpoint: Path, tmp_path: Path
) -> None:
    lessons = write_photo_lessons(tmp_path / "lessons", 40)
    job = build_job(lessons, checkpoint, tmp_path / "run", max_missing_share=0.1)
    train_until(job, lambda m, session: session.request_stop())
    for number in (3, 7, 11):
        (lessons / f"{number}.jpg").write_bytes(b"damaged")
    outcome = run_stage(job)
    assert outcome.exit_code == 0
    assert outcome.lost <= 3
    assert f"allowed {0.1:.2%}" in outcome.as_text()


def test_a_stopped_run_goes_on_without_the_samples_that_it_names(
    checkpoint: Path, tmp_path: Path
) -> None:
    lessons = write_photo_lessons(tmp_path / "lessons", 40)
    job = build_job(lessons, checkpoint, tmp_path / "run")
    for number in (3, 4, 5):
        (lessons / f"{number}.jpg").write_bytes(b"damaged")
    for _ in range(4):  # each step that holds one of them stops once
        try:
            run_stage(job)
            break
        except TrainingError as error:
            file = str(error).split("FILE: ")[1].split(")")[0]
            lines = Path(file).read_text().splitlines()
            assert {json.loads(line)["sample_id"] for line in lines} <= {"s3", "s4", "s5"}
            job = job.replace(leave_out=(file,))
    outcome = run_stage(job.replace(leave_out=()))  # the run remembers them
    assert outcome.exit_code == 0
    assert outcome.audit.skipped == {LEFT_OUT: 3}
    assert "without those of --leave-out: 3" in outcome.as_text()
    assert (outcome.audit.twice, outcome.audit.left_out) == (0, 0)


def test_a_file_of_samples_that_the_run_does_not_have_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    lessons = write_photo_lessons(tmp_path / "lessons", 4)
    (tmp_path / "ids.txt").write_text("s1\nnobody\n")
    for file, sentence in (("ids.txt", "found 'nobody'"), ("none.txt", "no such file")):
        job = build_job(lessons, checkpoint, tmp_path / "run", leave_out=(str(tmp_path / file),))
        with pytest.raises(ConfigError, match=sentence):
            run_stage(job)


@pytest.fixture
def poisoned(checkpoint: Path, tmp_path: Path) -> Path:
    """A model that gives NaN for the token of one word."""
    folder = shutil.copytree(checkpoint, tmp_path / "poisoned")
    weights = load_file(folder / "model.safetensors")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = set(tokenizer("zq")["input_ids"]) - set(
        tokenizer("What is this? A red circle and a blue square .")["input_ids"]
    )
    assert rows
    weights["language_model.model.embed_tokens.weight"][list(rows)] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_loss_that_is_no_number_names_its_samples_and_the_run_goes_on_without_them(
    poisoned: Path, tmp_path: Path
) -> None:
    lessons = write_photo_lessons(tmp_path / "lessons", 16, text_alone=8)
    records = json.loads((lessons / "data.json").read_text())
    records[5]["conversations"][1]["value"] = "zq"
    (lessons / "data.json").write_text(json.dumps(records))
    job = build_job(lessons, poisoned, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"the loss is nan.*because of 1 of .*'s5'") as caught:
        run_stage(job)
    assert "nothing of the step was applied" in str(caught.value).lower()
    done = caught.value.step - 1
    assert [m.step for m in list_checkpoints(job.output)] == ([done] if done else [])
    file = str(caught.value).split("FILE: ")[1].split(")")[0]
    outcome = run_stage(job.replace(leave_out=(file,)))
    assert outcome.exit_code == 0
    assert outcome.audit.skipped == {LEFT_OUT: 1}
    assert all(loss == loss for loss in _losses(job.output))


def test_a_model_that_is_no_number_for_every_sample_is_said_to_be_at_fault(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["language_model.model.norm.weight"][:] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    job = build_job(write_photo_lessons(tmp_path / "lessons", 8), folder, tmp_path / "run")
    with pytest.raises(TrainingError, match="every sample of the step, so the weights are"):
        run_stage(job)
    assert list_checkpoints(job.output) == []


def _totals(samples_of: tuple[int, ...], skipped_of: tuple[int, ...]) -> StepTotals:
    samples, skipped = float(sum(samples_of)), float(sum(skipped_of))
    return StepTotals(
        *(0.0 if samples == skipped else 100.0, 100.0, 100.0, samples, samples, skipped),
        *(
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            tuple(map(float, samples_of)),
            tuple(map(float, skipped_of)),
        ),
    )


def test_one_worker_that_loses_its_images_is_noticed_among_sixteen() -> None:
    watch = SampleWatch(0.01, planned=1_200_000, lost=0)
    found = [
        watch.find_problem(_totals((16,) * 16, (0,) * 5 + (16,) + (0,) * 10)) for _ in range(3)
    ]
    assert any(problem and "worker 5 lost" in problem for problem in found)


@pytest.mark.parametrize("share", [0.001, 0.005, 0.01, 0.05, 0.2])
def test_losses_by_chance_at_the_allowed_share_do_not_stop_a_long_run(share: float) -> None:
    import numpy as np

    chance = np.random.default_rng(0)
    watch = SampleWatch(share, planned=10**9, lost=0)
    for _ in range(3000):
        skipped = chance.binomial(16, share, size=16)
        totals = _totals((16,) * 16, tuple(map(int, skipped)))
        assert watch.find_problem(totals) is None


@pytest.mark.parametrize("planned", [40, 1_000, 1_200_000])
def test_a_step_that_teaches_nothing_stops_whatever_is_allowed(planned: int) -> None:
    problem = SampleWatch(1.0, planned, 0).find_problem(_totals((4, 4), (4, 4)))
    assert problem == "none of its 8 samples has a token to learn"


def test_losses_of_earlier_starts_count() -> None:
    assert SampleWatch(0.01, planned=1000, lost=10).find_problem(_totals((8,), (1,)))
    assert not SampleWatch(0.01, planned=1000, lost=9).find_problem(_totals((8,), (1,)))


def test_the_watched_losses_are_those_of_the_log(checkpoint: Path, tmp_path: Path) -> None:
    lessons = write_photo_lessons(tmp_path / "lessons", 40)
    for number in (1, 2):
        (lessons / f"{number}.jpg").write_bytes(b"damaged")
    job = build_job(lessons, checkpoint, tmp_path / "run", max_missing_share=0.2, epochs=2)
    assert run_stage(job).exit_code == 0
    found = audit_samples(job.output, samples=40, steps_per_epoch=10, steps=20)
    assert sum(found.skipped.values()) == list_checkpoints(job.output)[-1].lost == 4
