"""The metrics of every step, and where they are written: metrics.jsonl and TensorBoard.

The files hold every step once, whatever was interrupted: a resumed run drops the metrics of the
steps that it does again.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tensorboardX import SummaryWriter

from s4v_core import storage
from s4v_core.training.evaluation_records import Evaluation, read_evaluations, score_tag
from s4v_core.training.worker.trackers import Trackers

_METRICS_NAME = "metrics.jsonl"
TENSORBOARD = "tensorboard"
_FLUSH_S = 20.0
"""Least seconds between two writes: a store takes whole files only, so each write repeats all
lines."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics of one step, over all workers.

    Attributes:
        step: Number of the step, from 1.
        epoch: Number of its epoch, from 0.
        loss: Mean over all tokens that carry loss.
        learning_rate: Learning rate of the step.
        grad_norm: Norm of the whole gradient before clipping.
        samples: Number of samples, the skipped ones included.
        skipped: Number of samples whose image could not be read.
        images: Number of images that were read.
        tokens: Number of tokens, image tokens included and padding excluded.
        learnt_tokens: Number of tokens that carry loss.
        padding_share: Share of the computed positions that is padding.
        step_s: Seconds since the previous step's record was made. Adds up to the time of the whole
            run, recording included.
        data_wait_s: Seconds of `step_s` in which workers waited for their samples.
        checkpoint_wait_s: Seconds of `step_s` in which training was paused for the checkpoint
            before this step.
        images_per_s: Images per second.
        tokens_per_s: Tokens per second.
        mfu: Model FLOP utilisation; None if the device's peak is not known.
        memory_gib: Peak memory of the leading worker's device; None on CPUs.
        validation_loss: Mean loss of the held-out samples after this step; None where it was not
            measured.
        validation_s: Seconds of `step_s` in which it was measured.
        evaluation: Scores of the checkpoint after this step, by name; None where there are none.
            They arrive later than the other metrics.
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
    validation_loss: float | None = None
    validation_s: float = 0.0
    evaluation: dict[str, float] | None = None

    @property
    def bound_by(self) -> str:
        """The limit of the step's speed: data, checkpoint or compute."""
        if self.data_wait_s > 0.1 * self.step_s:
            return "data"
        return "checkpoint" if self.checkpoint_wait_s > 0.1 * self.step_s else "compute"


class MetricsLog:
    """Writes the metrics of a run. Only the leading worker has one.

    Args:
        first_step: The step to continue with; later steps are dropped from the files.
        trackers: Services that get the metrics, too.
    """

    def __init__(self, output: str, first_step: int, trackers: Trackers | None = None) -> None:
        self._output = output
        self._trackers = trackers
        self._lines = [m for m in read_metrics(output) if m.step < first_step]
        self._flushed_at = time.monotonic()
        local = storage.is_local(output)
        self._folder = Path(storage.join(output, TENSORBOARD) if local else tempfile.mkdtemp())
        self._board = SummaryWriter(
            str(self._folder), purge_step=first_step, flush_secs=int(_FLUSH_S)
        )

    def add(self, metrics: StepMetrics) -> None:
        """Log a step; it is durable after the next flush."""
        self._lines.append(metrics)
        values = {n: v for n, v in asdict(metrics).items() if n != "step" and v is not None}
        for name, value in values.items():
            if name != "epoch":
                self._board.add_scalar(name, value, metrics.step)
        if self._trackers:
            self._trackers.log(metrics.step, values)
        if time.monotonic() - self._flushed_at > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Make all logged steps durable, with the scores that arrived since then."""
        self._lines = _add_scores(self._lines, read_evaluations(self._output), self._trackers)
        _write(self._output, self._lines)
        self._board.flush()
        if not storage.is_local(self._output):
            for path in self._folder.iterdir():
                uri = storage.join(self._output, TENSORBOARD, path.name)
                storage.replace(uri, path.read_bytes())
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._board.close()
        if self._trackers:
            self._trackers.close()
        if not storage.is_local(self._output):
            shutil.rmtree(self._folder, ignore_errors=True)


def read_metrics(output: str) -> list[StepMetrics]:
    """Read the metrics of all steps of a run so far, in order."""
    uri = storage.join(output, _METRICS_NAME)
    if storage.stat(uri) is None:
        return []
    return [StepMetrics(**json.loads(line)) for line in storage.read(uri).splitlines()]


def add_late_scores(output: str, open_trackers: Callable[[], Trackers | None]) -> None:
    """Add the scores that arrived behind the last step to its run's metrics and services. No worker
    may be writing them any more."""
    lines = read_metrics(output)
    evaluations = read_evaluations(output)
    if not _find_new(lines, evaluations):
        return
    trackers = open_trackers()
    _write(output, _add_scores(lines, evaluations, trackers))
    if trackers:
        trackers.close()


def _add_scores(
    lines: list[StepMetrics], evaluations: Sequence[Evaluation], trackers: Trackers | None
) -> list[StepMetrics]:
    """The lines with the scores that none of them has yet, which the services get, too."""
    new = _find_new(lines, evaluations)
    if trackers:
        for step, scores in new.items():
            tagged = {score_tag(name): value for name, value in scores.items()}
            trackers.log_scores(step, tagged, lines[-1].step)
    return [replace(one, evaluation=new.get(one.step, one.evaluation)) for one in lines]


def _find_new(
    lines: Sequence[StepMetrics], evaluations: Sequence[Evaluation]
) -> dict[int, dict[str, float]]:
    """The scores that the lines do not have yet, by step."""
    known = {one.step: one.evaluation for one in lines}
    return {
        one.step: one.scores
        for one in evaluations
        if one.scores and one.step in known and known[one.step] is None
    }


def _write(output: str, lines: Sequence[StepMetrics]) -> None:
    text = "".join(json.dumps(asdict(line)) + "\n" for line in lines)
    storage.replace(storage.join(output, _METRICS_NAME), text.encode())
