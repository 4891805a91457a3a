"""Evaluation of checkpoints beside training, each as its own Ray task.

Knows no benchmark: an evaluator turns a model into scores. Whatever fails here is a warning, and
training goes on.
"""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from tensorboardX import SummaryWriter

from s4v_core import storage
from s4v_core.errors import S4VError
from s4v_core.training.evaluation_records import (
    DueSteps,
    Evaluation,
    evaluation_folder,
    mark_taken,
    read_evaluations,
    read_gone,
    record_evaluation,
    score_tag,
)
from s4v_core.training.worker.checkpoints import Manifest, list_checkpoints, prune
from s4v_core.training.worker.step_metrics import TENSORBOARD

_MODEL = "model"
"""Folder of the exported model below that of its evaluation."""
_POLL_S = 2.0
_log = logging.getLogger(__name__)


class Evaluator(Protocol):
    """Evaluates a model. It is pickled and called in a Ray task."""

    cpus: float
    gpus: int

    def __call__(self, model: str, output: str) -> Mapping[str, float]:
        """The scores of a model by name; whatever it writes lies below `output`."""
        ...


Export = Callable[[Manifest, str], str]
"""Writes the model of a checkpoint to a URI, and returns the URI."""


class CheckpointEvaluations:
    """Evaluates checkpoints while a run trains; a context manager.

    A checkpoint that is due stays until its model is exported, however few are kept.

    Args:
        due: The steps that are evaluated.
        keep: Number of newest checkpoints that are kept behind the last step.
        wait_s: Seconds that evaluations may take after the last step.
    """

    def __init__(
        self, due: DueSteps, keep: int, evaluate: Evaluator, export: Export, wait_s: float
    ) -> None:
        self._output, self._due, self._keep = due.output, due, keep
        self._evaluate, self._export, self._wait_s = evaluate, export, wait_s
        # One without scores is tried again, if its checkpoint or its model is still there.
        self._begun = {one.step for one in read_evaluations(due.output) if not one.problem}
        self._waiting: dict[int, tuple[str, str]] = {}
        self._tasks: dict[int, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        from s4v_core.flow.connection import connect

        connect(self._evaluate.cpus, self._evaluate.gpus)
        self._take_exported()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for evaluations, unless the run was stopped."""
        self._ended.set()
        self._thread.join()
        found = list_checkpoints(self._output)
        self._name_gone(found)
        is_finished = bool(found) and found[-1].step == self._due.last
        if kind is None and is_finished:
            self._begin_due()
            self._prune()
            self._wait()

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_S):
            self._begin_due()
            self._collect()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._wait_s
        self._collect()
        if self._tasks:
            _log.info("waiting for %d evaluations", len(self._tasks) + len(self._waiting))
        while self._tasks and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            self._collect()
        for step in (*self._tasks, *self._waiting):
            _log.warning("the evaluation of step %d is not done; run the same command again", step)

    def _begin_due(self) -> None:
        """Start an evaluation of each checkpoint that is due."""
        try:
            found = list_checkpoints(self._output)
        except (S4VError, FileNotFoundError, ValueError) as error:  # it is being pruned
            _log.debug("checkpoints: %s", error)
            return
        for manifest in found:
            if manifest.step not in self._begun and self._due.is_due(manifest.step):
                self._begun.add(manifest.step)
                self._begin(manifest)

    def _begin(self, manifest: Manifest) -> None:
        step = manifest.step
        folder = evaluation_folder(self._output, step)
        # Border to foreign code: an export fails as it likes, and ends no training.
        try:
            model = self._export(manifest, storage.join(folder, _MODEL))
            self._waiting[step] = (model, folder)
            self._start_next()
        except Exception as error:  # noqa: BLE001
            self._fail(step, error)
        try:  # behind a failure, too: what cannot be exported must not fill the disk
            mark_taken(self._output, step)
        except S4VError as error:
            _log.warning("the checkpoint of step %d is left: %s", step, error)

    def _prune(self) -> None:
        """Remove the old checkpoints that stayed only for their evaluation."""
        try:
            prune(self._output, self._keep, self._due.is_awaited)
        except S4VError as error:
            _log.warning("old checkpoints are left: %s", error)

    def _take_exported(self) -> None:
        """Evaluate the models that an earlier start exported and did not evaluate."""
        found = list_checkpoints(self._output)
        for step in self._due.list_due(found[-1].step if found else 0):
            folder = evaluation_folder(self._output, step)
            model = storage.join(folder, _MODEL)
            if step not in self._begun and storage.exists(storage.join(model, "config.json")):
                self._begun.add(step)
                self._waiting[step] = (model, folder)

    def _name_gone(self, found: Sequence[Manifest]) -> None:
        """Record the checkpoints that had to be removed before they were seen here."""
        for step in self._due.list_due(found[-1].step if found else 0):
            if step not in self._begun and (reason := read_gone(self._output, step)):
                self._begun.add(step)
                self._fail(step, reason)

    def _start_next(self) -> None:
        """Start the next task. One runs at a time: each takes an engine of its own."""
        import ray

        if self._tasks or not self._waiting:
            return
        step = min(self._waiting)
        model, folder = self._waiting.pop(step)
        # The engine reserves its own place; the task only waits for it.
        task = ray.remote(num_cpus=0, max_retries=1)(_evaluate)
        self._tasks[step] = task.remote(self._evaluate, model, folder)

    def _collect(self) -> None:
        import ray

        for step, task in list(self._tasks.items()):
            if not ray.wait([task], timeout=0)[0]:
                continue
            del self._tasks[step]
            try:
                self._record(Evaluation(step, dict(ray.get(task))))
            except Exception as error:  # noqa: BLE001 - whatever a task raises ends no training
                self._fail(step, error)
        self._start_next()

    def _record(self, evaluation: Evaluation) -> None:
        record_evaluation(self._output, evaluation)
        _show_on_board(self._output, evaluation)
        _log.info("step %d: %s", evaluation.step, evaluation.as_text())

    def _fail(self, step: int, error: Exception | str) -> None:
        """Say and record that a checkpoint has no scores, and why."""
        cause = getattr(error, "cause", None) or error  # Ray's own text has a traceback first
        problem = next((line for line in str(cause).splitlines() if line.strip()), repr(cause))
        _log.warning("step %d is not evaluated, training goes on: %s", step, problem)
        try:
            record_evaluation(self._output, Evaluation(step, problem=problem))
        except S4VError as refused:  # a store that is away ends no training here
            _log.warning("step %d: %s", step, refused)


def _evaluate(evaluator: Evaluator, model: str, folder: str) -> dict[str, float]:
    """Evaluate a model and remove it: a later start exports it again."""
    scores = dict(evaluator(model, folder))
    storage.remove(model)
    return scores


def _show_on_board(output: str, evaluation: Evaluation) -> None:
    """Add the scores to the run's TensorBoard, in a file of their own: the leading worker writes
    another one."""
    is_local = storage.is_local(output)
    folder = storage.join(output, TENSORBOARD) if is_local else tempfile.mkdtemp()
    board = SummaryWriter(folder, filename_suffix=f".evaluation-{evaluation.step:06d}")
    for name, value in evaluation.scores.items():
        board.add_scalar(score_tag(name), value, evaluation.step)
    board.close()
    if not is_local:
        for path in Path(folder).iterdir():
            storage.replace(storage.join(output, TENSORBOARD, path.name), path.read_bytes())
        shutil.rmtree(folder, ignore_errors=True)
