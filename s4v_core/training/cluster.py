"""The loop on a Ray cluster: Ray Train starts workers, replaces dead ones, and tells of machines
that are about to leave."""

import os
import threading
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_preemption_info
from ray.train.torch import TorchConfig, TorchTrainer

from s4v_core import storage
from s4v_core.errors import S4VError, StorageError, TrainingError
from s4v_core.flow.connection import connect
from s4v_core.interrupts import drain_on_interrupt
from s4v_core.training.assignment import Run
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.step_metrics import StepMetrics
from s4v_core.training.worker.world import join_world

POLL_S = 0.5
START_LIMIT_S = 600
"""For workers to start: importing torch and transformers from a cold disk takes minutes."""


class _DeskActor:
    def __init__(self) -> None:
        self.metrics: list[StepMetrics] = []
        self.stop = False
        self.failure: S4VError | None = None

    def tell(self, metrics: StepMetrics) -> bool:
        """Take the news of a step; returns whether the run should stop."""
        self.metrics.append(metrics)
        return self.stop

    def ask_stop(self) -> None:
        self.stop = True

    def take_metrics(self) -> list[StepMetrics]:
        found, self.metrics = self.metrics, []
        return found

    def report(self, error: S4VError) -> None:
        self.failure = self.failure or error

    def first_failure(self) -> S4VError | None:
        return self.failure


class RayDesk:
    """The worker's end."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._stop = False

    def tell(self, metrics: StepMetrics) -> None:
        self._stop = bool(ray.get(self._actor.tell.remote(metrics)))

    def is_stop_asked(self) -> bool:
        return self._stop

    def is_machine_leaving(self) -> bool:
        return get_preemption_info() is not None


def train_on_ray(run: Run, on_step: Callable[[StepMetrics], None]) -> None:
    """Train with the job's number of workers.

    Raises:
        S4VError: What a worker raised that a restart does not cure, or the last of its failures.
        TrainingError: Ray itself cannot go on, or workers died more often than `max_failures`.
    """
    job = run.job
    on_gpus = job.device == "cuda"
    connect(job.workers + 1, job.workers if on_gpus else 0)
    desk = ray.remote(num_cpus=0)(_DeskActor).remote()
    failed: list[BaseException] = []
    trainer = _trainer(run, desk)
    # Not in the main thread: there, Ray would end the run at the first Ctrl-C without saving.
    thread = threading.Thread(target=_fit, args=(trainer, failed), daemon=True)
    step = 0
    with drain_on_interrupt(lambda: desk.ask_stop.remote(), "saving a checkpoint"):
        thread.start()
        going = True
        while going:
            thread.join(POLL_S)
            going = thread.is_alive()
            for metrics in ray.get(desk.take_metrics.remote()):
                on_step(metrics)
                step = metrics.step
    failure: S4VError | None = ray.get(desk.first_failure.remote())
    if failed and failure is None:
        raise TrainingError(step, f"Ray Train gave up: {failed[0]}") from failed[0]
    if failure is not None and (failed or _is_final(failure)):
        raise failure


def _trainer(run: Run, desk: Any) -> Any:
    job = run.job
    on_gpus = job.device == "cuda"
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_LIMIT_S))
    filesystem, path = storage.arrow_filesystem(storage.join(run.output, "ray"))
    return TorchTrainer(
        _train_worker,
        train_loop_config={"run": run, "desk": desk},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.workers,
            use_gpu=on_gpus,
            resources_per_worker=None if on_gpus else {"CPU": 1},
            accelerator_type=job.accelerator,
        ),
        run_config=RunConfig(
            name=run.digest[:16],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=job.max_failures),
        ),
    )


def _fit(trainer: Any, failed: list[BaseException]) -> None:
    try:
        trainer.fit()
    # Border to foreign code: the driver raises it where it can be seen.
    except Exception as error:  # noqa: BLE001
        failed.append(error)


def _train_worker(config: dict[str, Any]) -> None:
    run, actor = config["run"], config["desk"]
    failure: S4VError | None = ray.get(actor.first_failure.remote())
    if failure is not None and _is_final(failure):
        return  # a restart would fail the same way
    world = join_world("cuda" if torch.cuda.is_available() and run.job.device == "cuda" else "cpu")
    try:
        train(run, world, RayDesk(actor))
    except S4VError as error:
        ray.get(actor.report.remote(error))
        raise


def _is_final(error: S4VError) -> bool:
    """Whether doing the same again gives the same; stores recover."""
    return not isinstance(error, StorageError)
