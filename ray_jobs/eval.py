"""Ask a model the questions of benchmarks and score its answers, or score stored answers.

Without a GPU, in minutes, nothing to download (questions about drawn scenes, demo captioner):
    python ray_jobs/eval.py demo

The paper's eleven columns on a cluster, model and benchmarks below $S4V_ROOT:
    ray job submit -- python ray_jobs/eval.py

Any vision model that vLLM serves, or one behind an OpenAI-compatible endpoint:
    python ray_jobs/eval.py --model org/name --benchmarks mme,pope --data DATA --output OUT
    python ray_jobs/eval.py --endpoint http://host:8000/v1 --benchmarks mme --data MME --output OUT

No model, only stored answers (or, for LLaVA-W and MM-Vet, a judge's grades) of any tool:
    python ray_jobs/eval.py --score-only answers.jsonl --benchmarks mme --data MME --output scores
    python ray_jobs/eval.py --compare a.jsonl b.jsonl --benchmarks mme --data MME
    python ray_jobs/eval.py --sources

--data is the folder or file of a benchmark as it was released. A question without an answer is
wrong. The same command again resumes a run. OUTPUT gets the answers, scores.json, report.html, and
the files that remote scorers take (MMBench, VQAv2, VizWiz, MM-Vet).
Exit code 0: scored, or not judged. 1: questions are missing. 2: bad input, nothing was done.
4: every question has its row, and not one has an answer.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_jobs.command_line import parse, read_flags, run_main, show, split_recipe
from s4v_core import storage
from s4v_core.environment import fill_in_root
from s4v_core.evaluation.job import EvalJob
from s4v_core.recipes import EVALUATE

_WITHOUT_MODEL = ("--score-only", "--compare", "--training-data", "--sources")


def main(argv: list[str]) -> int:
    if any(argument.partition("=")[0] in _WITHOUT_MODEL for argument in argv):
        return _work_on_files(read_flags(EvalJob, argv, __doc__ or ""))
    recipe = EVALUATE[split_recipe(EVALUATE, argv)[0]]
    job = parse(EVALUATE, argv, __doc__ or "", has_places=lambda job: False)
    return _evaluate(fill_in_root(_drop_leftovers(job, recipe)))


def _drop_leftovers(job: EvalJob, recipe: EvalJob) -> EvalJob:
    """The job without what its recipe says about a model or data that the job replaces."""
    changes: dict[str, object] = {}
    if job.endpoint and job.model == recipe.model:
        changes["model"] = None
    if job.data != recipe.data and job.demo_scenes == recipe.demo_scenes:
        changes["demo_scenes"] = 0
    return job.replace(**changes) if changes else job


def _evaluate(job: EvalJob) -> int:
    """Ask a model and score what it says."""
    from s4v_core.evaluation.evaluating import (  # late, so that --help stays quick
        DEMO_NOTICE,
        ask_questions,
        check_job,
        publish_scores,
        score_questions,
    )
    from s4v_core.evaluation.forecast import make_forecast
    from s4v_core.evaluation.scoring import show_score

    show(job.model_dump_json(indent=2))
    if job.plan:
        show(make_forecast(check_job(job)).as_text())
        return 0
    answers = ask_questions(job, lambda checked: show("\n".join(checked.notes)))
    outcome = answers.outcome
    if answers.sets:
        scores = score_questions(answers)
        for score in scores:
            show(show_score(score))
        outcome = publish_scores(answers, scores)
    show(outcome.as_text())
    if job.demo_scenes:
        print(DEMO_NOTICE)
    return outcome.exit_code


def _name_sides(first: str, second: str) -> tuple[str, str]:
    """Names of two files, short where that tells them apart."""
    short = storage.base_name(first), storage.base_name(second)
    return short if short[0] != short[1] else (first, second)


def _work_on_files(job: EvalJob) -> int:
    """Score or compare stored answers, or print what is known of the data."""
    from s4v_core.evaluation.catalogue import find_benchmark, list_sources

    if job.sources:
        show(list_sources())
        return 0
    from s4v_core.evaluation.comparison import compare
    from s4v_core.evaluation.leaks import report_leaks
    from s4v_core.evaluation.score_files import score_files, show_mean, write_scores
    from s4v_core.evaluation.scoring import show_score

    benchmark = find_benchmark(job.benchmarks)
    if job.training_data:
        show(report_leaks(benchmark, job.data, job.training_data))
        return 0
    scores = score_files(benchmark, job.data, job.compare or job.score_only)
    for score in scores:
        show(show_score(score))
    if job.compare:
        names = _name_sides(*job.compare)
        for figure, comparison in compare(scores[0], scores[1]).items():
            show(comparison.as_text(f"{benchmark.title}, {figure}", names))
        return 0
    if len(scores) > 1:
        show(show_mean(scores))
    for place in write_scores(job.output, scores):
        show(f"written: {place}")
    return 0


if __name__ == "__main__":
    run_main(main)
