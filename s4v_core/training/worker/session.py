"""The connection between the driver of a run and its workers while the run is under way."""

from collections.abc import Callable
from typing import Protocol

from s4v_core.training.worker.step_metrics import StepMetrics

SAVING = "saving a checkpoint"
"""The work of a run after a stop request, in the words of the line that is printed then."""


class Session(Protocol):
    """A worker's end of the connection. It is used in every step, so every call must be quick."""

    def report_step(self, metrics: StepMetrics) -> None:
        """Report a finished step to the driver. Only the leading worker does so."""

    def is_stop_requested(self) -> bool:
        """Whether the run should save a checkpoint and end."""

    def ask_for_stop(self) -> bool:
        """The same for a worker that waits: it asks the driver, which takes a moment."""

    def is_machine_leaving(self) -> bool:
        """Whether a worker's machine is about to be taken away. All workers must call it at the
        same step."""


class LocalSession:
    """The session of a run whose driver and worker share one process."""

    def __init__(self, on_step: Callable[[StepMetrics], None]) -> None:
        self._on_step = on_step
        self._stop_requested = False

    def report_step(self, metrics: StepMetrics) -> None:
        self._on_step(metrics)

    def request_stop(self) -> None:
        self._stop_requested = True

    def is_stop_requested(self) -> bool:
        return self._stop_requested

    def ask_for_stop(self) -> bool:
        return self._stop_requested

    def is_machine_leaving(self) -> bool:
        return False
