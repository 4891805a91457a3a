"""Evaluation of checkpoints beside training, each as its own Ray task.

Knows no benchmark: an evaluator turns a model into scores. Whatever fails here is a warning, and
training goes on.
"""

import json
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from tensorboardX import SummaryWriter

from s4v_core import storage
from s4v_core.errors import S4VError
from s4v_core.training.worker.checkpoints import Manifest, list_checkpoints
from s4v_core.training.worker.step_metrics import TENSORBOARD

EVALUATIONS = "evaluations.jsonl"
_FOLDER = "evaluations"
"""Folder below the output of a run with one folder for each evaluated step."""

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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a checkpoint.

    Attributes:
        step: The step after which it was saved.
    """

    step: int
    scores: dict[str, float] = field(default_factory=dict)


def read_evaluations(output: str) -> list[Evaluation]:
    """The evaluations of a run so far, by step."""
    uri = storage.join(output, EVALUATIONS)
    if storage.stat(uri) is None:
        return []
    found = [Evaluation(**json.loads(line)) for line in storage.read(uri).splitlines()]
    return sorted(found, key=lambda one: one.step)


class CheckpointEvaluations:
    """Evaluates checkpoints while a run trains; a context manager.

    Args:
        output: Folder of the run.
        every_steps: Checkpoints of every multiple of this number of steps are evaluated, and the
            last one.
        last_step: The last step of the run.
        wait_s: Seconds that evaluations may take after the last step.
    """

    def __init__(
        self,
        output: str,
        every_steps: int,
        last_step: int,
        evaluate: Evaluator,
        export: Export,
        wait_s: float,
    ) -> None:
        self._output, self._every, self._last = output, every_steps, last_step
        self._evaluate, self._export, self._wait_s = evaluate, export, wait_s
        self._begun = {one.step for one in read_evaluations(output)}
        self._waiting: dict[int, tuple[str, str]] = {}
        self._tasks: dict[int, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        from s4v_core.flow.connection import connect

        connect(self._evaluate.cpus, self._evaluate.gpus)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for evaluations, unless the run was stopped."""
        self._ended.set()
        self._thread.join()
        found = list_checkpoints(self._output)
        is_finished = bool(found) and found[-1].step == self._last
        if kind is None and is_finished:
            self._begin_due()
            self._wait()

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_S):
            self._begin_due()
            self._collect()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._wait_s
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
            step = manifest.step
            if step not in self._begun and (step % self._every == 0 or step == self._last):
                self._begun.add(step)
                self._begin(manifest)

    def _begin(self, manifest: Manifest) -> None:
        folder = storage.join(self._output, _FOLDER, f"step-{manifest.step:06d}")
        # Border to foreign code: a checkpoint that is pruned meanwhile breaks its reader anyhow.
        try:
            model = self._export(manifest, storage.join(folder, "model"))
            self._waiting[manifest.step] = (model, folder)
            self._start_next()
        except Exception as error:  # noqa: BLE001
            _warn(manifest.step, error)

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
                _warn(step, error)
        self._start_next()

    def _record(self, evaluation: Evaluation) -> None:
        found = [one for one in read_evaluations(self._output) if one.step != evaluation.step]
        found.append(evaluation)
        text = "".join(json.dumps(asdict(one)) + "\n" for one in sorted(found, key=_step_of))
        storage.replace(storage.join(self._output, EVALUATIONS), text.encode())
        _show_on_board(self._output, evaluation)
        shown = ", ".join(f"{name} {value:.2f}" for name, value in evaluation.scores.items())
        _log.info("step %d: %s", evaluation.step, shown)


def _step_of(evaluation: Evaluation) -> int:
    return evaluation.step


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
        # The writer would replace what it takes for no name itself, with a warning.
        tag = re.sub(r"[^\w/.-]", "_", f"evaluation/{name}")
        board.add_scalar(tag, value, evaluation.step)
    board.close()
    if not is_local:
        for path in Path(folder).iterdir():
            storage.replace(storage.join(output, TENSORBOARD, path.name), path.read_bytes())
        shutil.rmtree(folder, ignore_errors=True)


def _warn(step: int, error: Exception) -> None:
    sentence = next((line for line in str(error).splitlines() if line.strip()), repr(error))
    _log.warning("step %d is not evaluated, training goes on: %s", step, sentence)
