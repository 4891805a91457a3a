"""Files about the evaluations of a run: their scores, and marks on checkpoints that are due.

Knows no benchmark and no Ray: the worker that removes old checkpoints and the driver that evaluates
them meet here, through the files of the run.
"""

import json
import re
from dataclasses import asdict, dataclass, field

from s4v_core import storage

EVALUATIONS = "evaluations.jsonl"
_FOLDER = "evaluations"
"""Folder below the output of a run with one folder for each evaluated step."""
_TAKEN = "taken"
"""Mark of a checkpoint that its evaluation does not need any more."""
_GONE = "gone"
"""Mark of a checkpoint that was removed before its evaluation had taken it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluation of a checkpoint.

    Attributes:
        step: The step after which it was saved.
        scores: Its scores by name; empty if there are none.
        problem: Why there are none.
    """

    step: int
    scores: dict[str, float] = field(default_factory=dict)
    problem: str | None = None

    def as_text(self) -> str:
        if self.problem:
            return f"none: {self.problem}"
        return ", ".join(f"{name} {value:.2f}" for name, value in self.scores.items())


@dataclass(frozen=True, slots=True)
class DueSteps:
    """The steps whose checkpoints are evaluated.

    Attributes:
        output: Folder of the run.
        every: Every multiple of this number is due.
        last: The last step of the run, which is due, too.
    """

    output: str
    every: int
    last: int

    def is_due(self, step: int) -> bool:
        return step > 0 and (step % self.every == 0 or step == self.last)

    def is_awaited(self, step: int) -> bool:
        """Whether the checkpoint of a step is due, and its evaluation has not taken it yet."""
        return self.is_due(step) and not storage.exists(_mark(self.output, step, _TAKEN))

    def list_due(self, done: int) -> list[int]:
        """The due ones of the first `done` steps."""
        return [step for step in range(1, done + 1) if self.is_due(step)]


def evaluation_folder(output: str, step: int) -> str:
    """Folder of the evaluation of a step."""
    return storage.join(output, _FOLDER, f"step-{step:06d}")


def mark_taken(output: str, step: int) -> None:
    """Say that the checkpoint of a step may be removed: its model is exported, or cannot be."""
    storage.replace(_mark(output, step, _TAKEN), b"")


def mark_gone(output: str, step: int, reason: str) -> None:
    """Say that the checkpoint of a step was removed before its evaluation had taken it."""
    storage.replace(_mark(output, step, _GONE), reason.encode())


def read_gone(output: str, step: int) -> str | None:
    """Why the checkpoint of a step was removed too early; None if it was not."""
    uri = _mark(output, step, _GONE)
    return storage.read(uri).decode() if storage.exists(uri) else None


def _mark(output: str, step: int, name: str) -> str:
    return storage.join(evaluation_folder(output, step), name)


def read_evaluations(output: str) -> list[Evaluation]:
    """The evaluations of a run so far, by step."""
    uri = storage.join(output, EVALUATIONS)
    if storage.stat(uri) is None:
        return []
    found = [Evaluation(**json.loads(line)) for line in storage.read(uri).splitlines()]
    return sorted(found, key=_step_of)


def record_evaluation(output: str, evaluation: Evaluation) -> None:
    """Add an evaluation to those of the run, in place of an earlier one of the same step. Only the
    driver of the run does so."""
    found = [one for one in read_evaluations(output) if one.step != evaluation.step]
    found = sorted([*found, evaluation], key=_step_of)
    lines = [json.dumps(asdict(one)) + "\n" for one in found]
    storage.replace(storage.join(output, EVALUATIONS), "".join(lines).encode())


def _step_of(evaluation: Evaluation) -> int:
    return evaluation.step


def score_tag(name: str) -> str:
    """Name of a score among the metrics of a run: TensorBoard and the services take only some
    characters."""
    return re.sub(r"[^\w/.-]", "_", f"evaluation/{name}")
