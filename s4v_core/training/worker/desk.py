"""What the driver and the leading worker of a run tell each other while it goes on."""

from collections.abc import Callable
from typing import Protocol

from s4v_core.training.worker.step_metrics import StepMetrics


class Desk(Protocol):
    """Answers at once: it is asked in every step."""

    def tell(self, metrics: StepMetrics) -> None:
        """A step is done."""

    def is_stop_asked(self) -> bool:
        """Whether the run should save and end."""

    def is_machine_leaving(self) -> bool:
        """Whether a node of a worker is about to be taken away. Every worker asks, together."""


class LoneDesk:
    """Driver and worker are the same process."""

    def __init__(self, on_step: Callable[[StepMetrics], None]) -> None:
        self._on_step = on_step
        self.stop = False

    def tell(self, metrics: StepMetrics) -> None:
        self._on_step(metrics)

    def ask_stop(self) -> None:
        self.stop = True

    def is_stop_asked(self) -> bool:
        return self.stop

    def is_machine_leaving(self) -> bool:
        return False
