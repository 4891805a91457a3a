"""Score stored answers on a benchmark, by its official rule and by a lenient one.

    python ray_jobs/eval.py --score-only answers.jsonl --benchmarks mme --data MME --output scores
    python ray_jobs/eval.py --compare a.jsonl b.jsonl --benchmarks mme --data MME
    python ray_jobs/eval.py --benchmarks captions --input RUN --references FILE --output scores
    python ray_jobs/eval.py --sources

Answers are files as the tools of LLaVA, ShareGPT4V, MM-Vet, SEED-Bench and MMBench write them; for
LLaVA-W and MM-Vet, a judge's grades, or answers that --judge.model grades. --data is the folder or
file of the benchmark as it was released. A question without an answer is wrong. No model is run,
but for a judge. OUTPUT gets scores.json, the transcripts of a judge, and the file that a remote
scorer takes (MMBench, VQAv2, VizWiz, MM-Vet). The same command again resumes. Captions of a run, or
of a file, are measured by themselves, and by what --references say of their images.
Exit code 0: scored, or not judged. 1: a judge left answers out. 2: bad input, nothing was written.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tyro
from pydantic import model_validator

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core import storage
from s4v_core.config import Config
from s4v_core.errors import ConfigError
from s4v_core.evaluation.judging.settings import JudgeSettings

CAPTIONS = "captions"


class EvalJob(Config):
    """Score stored answers on a benchmark, or compare two files of answers."""

    score_only: tuple[str, ...] = ()
    """Files of answers, or of a judge's grades, of one model; several are runs whose mean is
    printed too. Repeatable."""
    compare: tuple[str, str] | None = None
    """Two files of answers to the same questions; whether their difference is noise is printed."""
    input: str | None = None
    """Folder of a caption run, or file of captions by image, for --benchmarks captions."""
    references: str | None = None
    """File of records with an image_id (or image), and captions or objects of that image."""
    clip: str | None = None
    """CLIP or SigLIP checkpoint, a folder on any URI or a hub id, by which a caption run is scored
    before it is measured."""
    training_data: tuple[str, ...] = ()
    """Files of training records, as JSON; questions of a benchmark with keywords (stablellava) that
    they answer are printed. Repeatable."""
    benchmarks: str = ""
    """Name of the benchmark that the answers belong to: llava-w, mme, mmbench, mmbench-cn, seed,
    mm-vet, qbench, scienceqa, vqav2, vizwiz, pope, mmstar or stablellava; or captions."""
    data: str = ""
    """Folder of the benchmark's files as they were released, or the one file that is meant."""
    output: str = ""
    """Folder for scores.json and for the file of a remote scorer."""
    judge: JudgeSettings = JudgeSettings()
    """The model that grades answers of llava-w and mm-vet; without one they are not judged."""
    sources: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print where each data set comes from, and under which licence."""

    @model_validator(mode="after")
    def _check_completeness(self) -> "EvalJob":
        if self.sources:
            return self
        is_captions = self.benchmarks == CAPTIONS
        tasks = [self.score_only, self.compare, self.training_data]
        if is_captions and bool(self.input) == bool(self.compare):
            raise ConfigError("give one of --input and --compare for --benchmarks captions")
        if not is_captions and sum(map(bool, tasks)) != 1:
            raise ConfigError("give one of --score-only, --compare and --training-data")
        needed = {"benchmarks": self.benchmarks}
        needed |= {} if is_captions else {"data": self.data}
        needed |= {"output": self.output} if self.score_only or self.input else {}
        lacking = [f"--{name}" for name, value in needed.items() if not value]
        if lacking:
            raise ConfigError(f"found no {' and no '.join(lacking)}; see --help")
        return self


def _name_sides(first: str, second: str) -> tuple[str, str]:
    """Names of two files, short where that tells them apart."""
    short = storage.base_name(first), storage.base_name(second)
    return short if short[0] != short[1] else (first, second)


def _evaluate_captions(job: EvalJob) -> int:
    """Measure the captions of a run or file, or compare those of two."""
    from s4v_core.evaluation.captions.comparison import compare_captions
    from s4v_core.evaluation.captions.score import score_captions, write_caption_scores

    if job.clip:
        from s4v_core.captioning.quality import Quality  # imports the flow
        from s4v_core.captioning.score_pass import score_run

        for run in job.compare or (job.input or "",):
            outcome = score_run(run, Quality(model=job.clip))
            if outcome.exit_code:
                show(outcome.as_text())
                return outcome.exit_code
    if job.compare:
        n, lines = compare_captions(job.compare, job.references)
        show(f"captions of {n:,} images, {' and '.join(_name_sides(*job.compare))}")
        show("\n".join(f"  {line}" for line in lines))
        return 0
    score = score_captions(job.input or "", job.references)
    show(score.as_text())
    show(f"written: {write_caption_scores(job.output, [score])}")
    return 0


def main(argv: list[str]) -> int:
    job = read_flags(EvalJob, argv, __doc__ or "")
    from s4v_core.evaluation.catalogue import find_benchmark, list_sources

    if job.sources:
        show(list_sources())
        return 0
    if job.benchmarks == CAPTIONS:
        return _evaluate_captions(job)
    from s4v_core.evaluation.comparison import compare
    from s4v_core.evaluation.leaks import report_leaks
    from s4v_core.evaluation.score_files import score_files, show_mean, write_scores
    from s4v_core.evaluation.scoring import show_score

    benchmark = find_benchmark(job.benchmarks)
    if job.training_data:
        show(report_leaks(benchmark, job.data, job.training_data))
        return 0
    files = list(job.compare or job.score_only)
    if job.judge.model and benchmark.is_judged and job.score_only:
        from s4v_core.evaluation.judging.judge_pass import judge_files  # imports the flow

        judged = judge_files(benchmark, job.data, files, job.output, job.judge)
        show(judged.as_text())
        if judged.exit_code:
            return judged.exit_code
        files = list(judged.transcripts)
    scores = score_files(benchmark, job.data, files)
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
