"""Training on a Ray cluster. Ray Train starts the workers, replaces dead ones, and warns of
machines that are about to be taken away."""

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
from s4v_core.flow.driver_actors import start_beside_driver
from s4v_core.interrupts import drain_on_interrupt, save_at_sigterm
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import SAVING
from s4v_core.training.worker.step_metrics import StepMetrics
from s4v_core.training.worker.world import EXCHANGE_LIMIT_S, join_world

_POLL_S = 0.5
"""Seconds between two looks for new metrics."""
_START_LIMIT_S = 600
"""Seconds that workers may take to start. Importing torch and transformers from a cold disk takes
minutes."""


class _SessionActor:
    """A Ray actor that passes metrics and errors to the driver, and a stop request to workers."""

    def __init__(self) -> None:
        self._metrics: list[StepMetrics] = []
        self._stop_requested = False
        self._failure: S4VError | None = None

    def report_step(self, metrics: StepMetrics) -> bool:
        """Keep a step's metrics for the driver; returns whether the run should stop."""
        self._metrics.append(metrics)
        return self._stop_requested

    def request_stop(self) -> None:
        self._stop_requested = True

    def is_stop_requested(self) -> bool:
        return self._stop_requested

    def take_metrics(self) -> list[StepMetrics]:
        """Hand out the metrics that were reported since the last call."""
        found, self._metrics = self._metrics, []
        return found

    def report_failure(self, error: S4VError) -> None:
        self._failure = self._failure or error

    def read_first_failure(self) -> S4VError | None:
        return self._failure


class _RaySession:
    """A worker's end of the session; see `Session`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._stop_requested = False

    def report_step(self, metrics: StepMetrics) -> None:
        self._stop_requested = bool(ray.get(self._actor.report_step.remote(metrics)))

    def is_stop_requested(self) -> bool:
        return self._stop_requested

    def ask_for_stop(self) -> bool:
        return bool(ray.get(self._actor.is_stop_requested.remote()))

    def is_machine_leaving(self) -> bool:
        return get_preemption_info() is not None


def train_on_ray(spec: RunSpec, on_step: Callable[[StepMetrics], None]) -> None:
    """Train with the job's number of workers.

    Raises:
        S4VError: A worker's error that a restart does not cure, or the error of its last restart.
        TrainingError: Ray itself gave up, or workers died more often than `max_failures`.
    """
    job = spec.job
    connect(job.workers + 1, job.workers if job.device == "cuda" else 0)
    session = start_beside_driver(_SessionActor)
    failed: list[BaseException] = []
    trainer = _build_trainer(spec, session)
    # Not in the main thread: there, Ray would end the run at the first Ctrl-C without saving.
    thread = threading.Thread(target=_fit, args=(trainer, failed), daemon=True)
    step = 0

    def request_stop() -> None:
        session.request_stop.remote()

    with (
        drain_on_interrupt(request_stop, SAVING),
        save_at_sigterm(request_stop, SAVING, job.saving.grace_s),
    ):
        thread.start()
        is_running = True
        while is_running:
            thread.join(_POLL_S)
            is_running = thread.is_alive()
            for metrics in ray.get(session.take_metrics.remote()):
                on_step(metrics)
                step = metrics.step
    failure: S4VError | None = ray.get(session.read_first_failure.remote())
    if failed and failure is None:
        raise TrainingError(step, f"Ray Train gave up: {failed[0]}") from failed[0]
    if failure is not None and (failed or _is_final(failure)):
        raise failure


def _build_trainer(spec: RunSpec, session: Any) -> Any:
    job = spec.job
    on_gpus = job.device == "cuda"
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_LIMIT_S))
    filesystem, path = storage.arrow_filesystem(storage.join(spec.output, "ray"))
    return TorchTrainer(
        _train_worker,
        train_loop_config={"spec": spec, "session": session},
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout_s=EXCHANGE_LIMIT_S
        ),
        scaling_config=ScalingConfig(
            num_workers=job.workers,
            use_gpu=on_gpus,
            resources_per_worker=None if on_gpus else {"CPU": 1},
            accelerator_type=job.accelerator,
        ),
        run_config=RunConfig(
            name=spec.digest[:16],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=job.max_failures),
        ),
    )


def _fit(trainer: Any, failed: list[BaseException]) -> None:
    try:
        trainer.fit()
    # Border to foreign code: the main thread raises the error, where the user can see it.
    except Exception as error:  # noqa: BLE001
        failed.append(error)


def _train_worker(config: dict[str, Any]) -> None:
    spec, actor = config["spec"], config["session"]
    failure: S4VError | None = ray.get(actor.read_first_failure.remote())
    if failure is not None and _is_final(failure):
        return  # a restart would fail in the same way
    on_gpu = torch.cuda.is_available() and spec.job.device == "cuda"
    world = join_world("cuda" if on_gpu else "cpu", spec.job.replicas)
    try:
        train(spec, world, _RaySession(actor))
    except S4VError as error:
        ray.get(actor.report_failure.remote(error))
        raise


def _is_final(error: S4VError) -> bool:
    """Whether another attempt would fail in the same way. A store may recover."""
    return not isinstance(error, StorageError)
