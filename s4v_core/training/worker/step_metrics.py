"""What is measured in every step, and where it is written: metrics.jsonl and TensorBoard.

The files hold every step once, whatever was interrupted: a resumed run drops what it does again.
"""

import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tensorboardX import SummaryWriter

from s4v_core import storage

METRICS_NAME = "metrics.jsonl"
TENSORBOARD = "tensorboard"
FLUSH_S = 20.0
"""Stores take whole files only: all lines are written again, at most this often."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step, over all workers.

    Attributes:
        step: From 1.
        loss: Mean over all tokens that carry loss.
        grad_norm: Before clipping.
        learnt_tokens: Tokens that carry loss.
        tokens: Without padding, image tokens included.
        padding_share: Of all places that were computed.
        step_s: Since the record of the step before: all the time there is, recording included.
        data_wait_s, checkpoint_wait_s: Part of `step_s` in which workers had nothing to compute:
            for their samples, and for a checkpoint right before the step.
        mfu: Model FLOP utilisation; None where the device's peak is not known.
        memory_gib: Peak of the leading worker's device; None on CPUs.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float
    samples: int
    skipped: int
    images: int
    tokens: int
    learnt_tokens: int
    padding_share: float
    step_s: float
    data_wait_s: float
    checkpoint_wait_s: float
    images_per_s: float
    tokens_per_s: float
    mfu: float | None
    memory_gib: float | None

    @property
    def bound_by(self) -> str:
        """What the step spent its time on."""
        if self.data_wait_s > 0.1 * self.step_s:
            return "data"
        return "checkpoint" if self.checkpoint_wait_s > 0.1 * self.step_s else "compute"


class MetricsLog:
    """Written by the leading worker alone."""

    def __init__(self, output: str, first_step: int) -> None:
        self._output = output
        self._lines = [m for m in read_metrics(output) if m.step < first_step]
        self._flushed = time.monotonic()
        local = storage.is_local(output)
        self._folder = Path(storage.join(output, TENSORBOARD) if local else tempfile.mkdtemp())
        self._board = SummaryWriter(
            str(self._folder), purge_step=first_step, flush_secs=int(FLUSH_S)
        )

    def add(self, metrics: StepMetrics) -> None:
        self._lines.append(metrics)
        for name, value in asdict(metrics).items():
            if name not in ("step", "epoch") and value is not None:
                self._board.add_scalar(name, value, metrics.step)
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Make everything durable."""
        text = "".join(json.dumps(asdict(line)) + "\n" for line in self._lines)
        storage.replace(storage.join(self._output, METRICS_NAME), text.encode())
        self._board.flush()
        if not storage.is_local(self._output):
            for path in self._folder.iterdir():
                uri = storage.join(self._output, TENSORBOARD, path.name)
                storage.replace(uri, path.read_bytes())
        self._flushed = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._board.close()
        if not storage.is_local(self._output):
            shutil.rmtree(self._folder, ignore_errors=True)


def read_metrics(output: str) -> list[StepMetrics]:
    """The steps of a run so far, in order."""
    uri = storage.join(output, METRICS_NAME)
    if storage.stat(uri) is None:
        return []
    return [StepMetrics(**json.loads(line)) for line in storage.read(uri).splitlines()]
