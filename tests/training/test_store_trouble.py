"""Stores that fail while a run is under way: one image is a lost sample, the whole store is waited
for, and then a checkpoint is saved."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from s4v_core import storage
from s4v_core.errors import StorageError, TrainingError
from s4v_core.storage import UnreachableError
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Saving, TrainStage
from s4v_core.training.worker.checkpoints import list_checkpoints
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import StepMetrics, read_metrics
from tests.faults.proxy import FaultProxy
from tests.training.small_run import build_job, train_until, write_photo_lessons


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server, for this process and the loader's."""
    found = FaultProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
    s3fs.S3FileSystem.clear_instance_cache()
    yield found
    found.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def job(proxy: FaultProxy, bucket: str, checkpoint: Path, tmp_path: Path) -> TrainStage:
    """A run on images in a bucket."""
    lessons = write_photo_lessons(tmp_path / "lessons", 40)
    for file in lessons.iterdir():
        storage.replace(storage.join(bucket, "lessons", file.name), file.read_bytes())
    return build_job(f"{bucket}/lessons", checkpoint, tmp_path / "run", store_patience_s=60.0)


@pytest.mark.parametrize("processes", [0, 1], ids=["thread", "process"])
@pytest.mark.parametrize(
    "outage_s",
    [6, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["seconds", "five minutes"],
)
def test_an_outage_is_waited_for(
    job: TrainStage, proxy: FaultProxy, processes: int, outage_s: int
) -> None:
    def fail_for_a_while(metrics: StepMetrics, session: LocalSession) -> None:
        if metrics.step == 2:
            proxy.down = True
            threading.Timer(outage_s, lambda: setattr(proxy, "down", False)).start()

    one = job.replace(loader_workers=processes, store_patience_s=outage_s + 60.0)
    train_until(one, fail_for_a_while)
    metrics = read_metrics(job.output)
    assert [m.step for m in metrics] == list(range(1, 11))
    assert not any(m.skipped for m in metrics)
    assert not proxy.down  # the run outlived the outage


@pytest.mark.parametrize("processes", [0, 1], ids=["thread", "process"])
def test_a_long_outage_ends_with_a_checkpoint(
    job: TrainStage, proxy: FaultProxy, processes: int
) -> None:
    def fail(metrics: StepMetrics, session: LocalSession) -> None:
        proxy.down = proxy.down or metrics.step == 2

    one = job.replace(loader_workers=processes, store_patience_s=3.0)
    with pytest.raises(UnreachableError, match=r"lessons/\d+\.jpg"):
        train_until(one, fail)
    done = list_checkpoints(job.output)[-1].step
    assert done == len(read_metrics(job.output)) >= 2
    proxy.down = False
    assert run_stage(job).exit_code == 0


def test_a_stop_request_ends_the_wait_for_a_store(job: TrainStage, proxy: FaultProxy) -> None:
    def fail(metrics: StepMetrics, session: LocalSession) -> None:
        if metrics.step == 2:
            proxy.down = True
            threading.Timer(5, session.request_stop).start()

    started = time.monotonic()
    train_until(job.replace(loader_workers=1, store_patience_s=500.0), fail)
    assert time.monotonic() - started < 200
    assert list_checkpoints(job.output)[-1].step == len(read_metrics(job.output)) < 10


def test_an_object_that_is_replaced_or_gone_is_a_lost_sample(job: TrainStage, bucket: str) -> None:
    def hurt_some(metrics: StepMetrics, session: LocalSession) -> None:
        if metrics.step == 1:
            for number in range(0, 40, 4):
                storage.replace(f"{bucket}/lessons/{number}.jpg", b"another file")
            for number in range(1, 40, 4):
                storage.remove(f"{bucket}/lessons/{number}.jpg")

    with pytest.raises(TrainingError, match=r"not_found \d|source_changed \d"):
        train_until(job, hurt_some)
    assert len(read_metrics(job.output)) == list_checkpoints(job.output)[-1].step


def test_a_checkpoint_is_written_through_bad_weather(
    job: TrainStage, proxy: FaultProxy, bucket: str
) -> None:
    proxy.refused, proxy.dropped, proxy.methods = 0.2, 0.1, (b"PUT", b"POST")
    one = job.replace(output=f"{bucket}/run", max_steps=4, saving=Saving(every_steps=2))
    outcome = run_stage(one)
    assert outcome.exit_code == 0
    assert proxy.fault_count > 0
    assert [m.step for m in list_checkpoints(one.output)] == [2, 4]


def test_a_store_that_takes_no_checkpoint_ends_the_run_and_the_last_one_is_whole(
    job: TrainStage, proxy: FaultProxy, bucket: str
) -> None:
    one = job.replace(output=f"{bucket}/run", saving=Saving(every_steps=2), store_patience_s=3.0)

    def fail(metrics: StepMetrics, session: LocalSession) -> None:
        if list_checkpoints(one.output):
            proxy.refused, proxy.methods = 1.0, (b"PUT", b"POST")

    with pytest.raises(StorageError, match=r"SlowDown|503|reduce your request rate"):
        train_until(one, fail)
    proxy.refused = 0.0
    assert [m.step for m in list_checkpoints(one.output)] == [2]
    assert run_stage(one).exit_code == 0
    assert [m.step for m in read_metrics(one.output)] == list(range(1, 11))
