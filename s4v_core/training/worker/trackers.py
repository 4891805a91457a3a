"""Services that get every step's metrics beside the files of the run: Weights & Biases, MLflow.

Their packages are imported only if a run asks for them. A service that fails ends no run: the files
hold all metrics.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from s4v_core import storage
from s4v_core.errors import ConfigError

_PROJECT = "s4v"
"""Name of the project or experiment, where the service's own environment variable names none."""
_DIGEST_TAG = "s4v_run"
"""MLflow's tag with the identity of the run, by which a resumed run finds its record."""
_SCORED_STEP = "evaluation/step"
"""Name under which a service gets the step that scores belong to."""

_log = logging.getLogger(__name__)


class _Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def log_scores(self, step: int, scores: Mapping[str, float], now: int) -> None: ...

    def close(self) -> None: ...


class _WandbTracker:
    """A run at Weights & Biases. `WANDB_MODE=offline` keeps it on this machine."""

    def __init__(self, output: str, digest: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=digest[:16],
            name=storage.base_name(output),
            config=dict(settings),
            resume="allow",
        )
        # Scores are drawn over the step that they belong to, which is long past.
        self._run.define_metric("evaluation/*", step_metric=_SCORED_STEP)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_scores(self, step: int, scores: Mapping[str, float], now: int) -> None:
        # The service drops what is logged for an earlier step than the newest one.
        self._run.log({**scores, _SCORED_STEP: step}, step=now)

    def close(self) -> None:
        self._run.finish()


class _MlflowTracker:
    """A run at MLflow. `MLFLOW_TRACKING_URI` says where; a resumed run goes on in its record."""

    def __init__(self, output: str, digest: str, settings: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.{_DIGEST_TAG} = '{digest[:16]}'")
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        run_name = storage.base_name(output)
        tags = {_DIGEST_TAG: digest[:16]}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run_name).info.run_id
        for setting, value in settings.items():
            self._client.log_param(self._id, setting, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def log_scores(self, step: int, scores: Mapping[str, float], now: int) -> None:
        self.log(step, scores)

    def close(self) -> None:
        self._client.set_terminated(self._id)


_KINDS: dict[str, type[_WandbTracker] | type[_MlflowTracker]] = {
    "wandb": _WandbTracker,
    "mlflow": _MlflowTracker,
}


class Trackers:
    """The services of one run; a failing one is dropped with a warning.

    Args:
        names: Names of the services.
        digest: Identity of the run, so that a resumed one goes on in its record.
        settings: The settings that the record shows.
    """

    def __init__(
        self, names: Sequence[str], output: str, digest: str, settings: Mapping[str, Any]
    ) -> None:
        self._open: dict[str, _Tracker] = {}
        for name in names:
            # A service that cannot be reached raises whatever its package likes.
            try:
                self._open[name] = _KINDS[name](output, digest, settings)
            except Exception as error:  # noqa: BLE001
                _warn(name, error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send a step's metrics to every service."""
        self._send(lambda tracker: tracker.log(step, values))

    def log_scores(self, step: int, scores: Mapping[str, float], now: int) -> None:
        """Send the scores of an earlier step's checkpoint to every service.

        Args:
            now: The newest step whose metrics were sent.
        """
        self._send(lambda tracker: tracker.log_scores(step, scores, now))

    def _send(self, send: Callable[[_Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                send(tracker)
            except Exception as error:  # noqa: BLE001 - border to foreign code
                _warn(name, error)
                del self._open[name]

    def close(self) -> None:
        for tracker in self._open.values():
            with suppress(Exception):
                tracker.close()


def refuse_missing_trackers(names: Sequence[str]) -> None:
    """Check that the packages of the services are installed.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"log_to: found {name}, whose package is not installed; install it with "
                f"pip install {name}, or leave it out (TensorBoard needs nothing)"
            )


def _warn(name: str, error: Exception) -> None:
    _log.warning("%s gets no metrics of this run any more: %s", name, error)
