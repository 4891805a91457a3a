"""One evaluation from job to scores: ask what is missing, score all, and write what people read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s4v_core import storage
from s4v_core.demo.benchmark_files import write_benchmarks
from s4v_core.errors import ConfigError
from s4v_core.evaluation.answer_task import ANSWERS
from s4v_core.evaluation.answered import AnsweredSet, read_answered, score_sets, write_answers
from s4v_core.evaluation.asking import (
    CheckedEvaluation,
    check_evaluation,
    list_rows,
    plan_evaluation,
    read_set,
)
from s4v_core.evaluation.credit_files import write_credits
from s4v_core.evaluation.job import EvalJob
from s4v_core.evaluation.report import write_report
from s4v_core.evaluation.score_files import write_scores
from s4v_core.evaluation.scoring import Score
from s4v_core.records.plan import read_plan_head
from s4v_core.runs.driver import Run, connect_for, run_missing
from s4v_core.runs.outcome import Outcome

DEMO_NOTICE = "A demo: questions about drawn scenes, not those of the benchmarks."


@dataclass(frozen=True, slots=True)
class Answers:
    """A run whose questions were asked.

    Attributes:
        sets: The answers by benchmark; empty while questions are missing.
    """

    checked: CheckedEvaluation
    run: Run
    outcome: Outcome
    sets: list[AnsweredSet]


def ask_questions(
    job: EvalJob, on_checked: Callable[[CheckedEvaluation], None] | None = None
) -> Answers:
    """Ask what no file holds yet.

    Args:
        on_checked: Called once everything is checked, before anything is written.

    Raises:
        ConfigError, InputError: Before anything is written.
        StorageError, EngineError: A store or engine fails as a whole; what is done stays done.
    """
    checked = check_job(job)
    if on_checked:
        on_checked(checked)
    job = checked.job
    head = read_plan_head(job.output)
    if head is None and checked.engine.is_spread:
        # A run that its cluster cannot hold would leave a plan that no other settings may use.
        connect_for(checked.engine, checked.engines)
    run = plan_evaluation(checked, list_rows(checked), job.output, checked.unit_size)
    outcome = run_missing(run)
    is_whole = not (outcome.counts.missing or outcome.counts.foreign)
    return Answers(checked, run, outcome, read_answered(checked, run.units) if is_whole else [])


def check_questions(job: EvalJob) -> None:
    """Read the questions of all benchmarks.

    Raises:
        ConfigError, InputError: A benchmark or its files do not fit.
    """
    for name in job.names:
        read_set(job, name)


def check_job(job: EvalJob) -> CheckedEvaluation:
    """Check everything that a job names; the demo's questions are drawn first.

    Raises:
        ConfigError, InputError: Something does not fit.
    """
    job = job.replace(output=storage.absolute(job.output), data=storage.absolute(job.data))
    if job.demo_scenes and not Path(job.data).exists():
        write_benchmarks(Path(job.data), job.demo_scenes)
    head = read_plan_head(job.output)
    if head is not None and head.kind != ANSWERS.folder:
        raise ConfigError(
            f"output: {job.output} holds a run of {head.kind}; choose another --output"
        )
    return check_evaluation(job)


def publish_scores(answers: Answers, scores: Sequence[Score]) -> Outcome:
    """Write answers, scores, files for remote scorers, and the page.

    Returns:
        The run's outcome with the places of these files.

    Raises:
        ConfigError: There is a file of these names that no run wrote.
    """
    output, checked = answers.checked.job.output, answers.checked
    write_answers(output, answers.sets)
    places = write_scores(output, scores)
    write_credits(output, scores)
    notice = DEMO_NOTICE if checked.job.demo_scenes else ""
    page = write_report(output, scores, answers.run.head, notice)
    files = [("scores", places[0]), *(("for a remote scorer", place) for place in places[1:])]
    files += [("report", page)] if page else []
    return replace(answers.outcome, files=(*answers.outcome.files, *files))


def score_questions(answers: Answers) -> list[Score]:
    """The score of each benchmark whose questions were asked."""
    return score_sets(answers.checked, answers.sets)
