"""Evaluates one model of many, as training does with its checkpoints."""

from collections.abc import Sequence

from s4v_core.errors import EngineError
from s4v_core.evaluation.evaluating import (
    ask_questions,
    check_questions,
    publish_scores,
    score_questions,
)
from s4v_core.evaluation.job import EvalJob
from s4v_core.evaluation.scoring import Score


class CheckpointEvaluator:
    """Asks each model the same questions. Small and picklable.

    Args:
        job: The evaluation; its model and output are replaced.

    Attributes:
        cpus, gpus: What one evaluation takes.
    """

    def __init__(self, job: EvalJob) -> None:
        self.job = job
        self.gpus = 0 if job.settings.device == "cpu" else job.settings.gpus_per_engine
        self.cpus = job.settings.reserved_cpus + 2.0

    def check(self) -> None:
        """Read the questions, so that a wrong name or folder shows before training.

        Raises:
            ConfigError, InputError: A benchmark or its files do not fit.
        """
        check_questions(self.job)

    def __call__(self, model: str, output: str) -> dict[str, float]:
        """The headline figures of a model.

        Raises:
            EngineError: Questions have no row yet.
        """
        answers = ask_questions(self.job.replace(model=model, output=output))
        if not answers.sets:
            raise EngineError(answers.checked.engine.name, "left questions without a row")
        scores = score_questions(answers)
        publish_scores(answers, scores)
        return list_headlines(scores)


def list_headlines(scores: Sequence[Score]) -> dict[str, float]:
    """The figures that the paper prints of each benchmark, or its headline."""
    found = {}
    for score in scores:
        published = [name for name in score.benchmark.published if name in score.official]
        for name in published or list(score.official)[:1]:
            if score.official[name].n:
                found[f"{score.benchmark.name} {name}"] = round(score.official[name].value, 4)
    return found
