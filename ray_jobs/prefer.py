"""Let people, or a judge model, say which of two captions of one image is better (Table 2).

    python ray_jobs/prefer.py s3://bucket/run captions.json --n 100 --output study
    python ray_jobs/prefer.py iiw400.jsonl#IIW iiw400.jsonl#IIW-P5B --images iiw --output study
    python ray_jobs/prefer.py A B --output study --judge http://127.0.0.1:8000/v1 --judge-model NAME
    python ray_jobs/prefer.py A B --output study --results

A and B are folders of caption runs or files of records, as analyze.py takes them. At the first
start N images with a caption in both are drawn; then a page is open until Ctrl-C, on which any
number of people compare the captions, without knowing whose they are. Each opens the link and
enters a name, or opens the link with ?rater=NAME. Keys: 1, 2, 0 for comparable, Backspace to go
back. Every vote is on the disk before the page says so; the same command goes on with the study.
A judge is asked about each pair in both orders. Results are printed at the end and written to
OUTPUT/results.json. Exit code 0: done. 1: a judge could not be asked. 2: bad input.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field, model_validator

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core.config import Config
from s4v_core.errors import ConfigError

if TYPE_CHECKING:
    from s4v_core.analysis.preference.study import StudySettings
    from s4v_core.annotation.vote_store import VoteStore


class PreferJob(Config):
    """Let people or a model say which of two captions is better."""

    captions: Annotated[tuple[str, str], tyro.conf.Positional]
    """The two sets: files of records, or folders of caption runs; PLACE#FIELD names a field."""
    output: str = "preference"
    """Folder of the study, on a disk of this machine; the same folder goes on with it."""
    images: tuple[str, ...] = ()
    """Folder, tars or another input with the images; may be repeated. By default those of a caption
    run among the two sets, or the folder of the first file."""
    n: int = Field(100, ge=1)
    """Number of images to draw."""
    seed: int = 0
    """Seed of the draw."""
    key: str | None = None
    """Field of a record that names its image; by default it is found."""
    match_file_names: tyro.conf.FlagCreatePairsOff[bool] = False
    """Whether an image may be found by its file name alone, whatever its folders and ending."""
    host: str = "127.0.0.1"
    """Address to listen on. By default only this machine reaches the page; with 0.0.0.0 whoever has
    the link does, which then holds a key. The connection is not encrypted."""
    port: int = Field(8765, ge=0, le=65_535)
    """Port to listen on; 0 takes any free one."""
    results: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only write the results so far; also while the page is open elsewhere."""
    judge: str | None = None
    """Base address of an OpenAI-compatible endpoint (.../v1), whose model is asked in place of
    people. Its key comes from OPENAI_API_KEY."""
    judge_model: str | None = None
    """Name of the judge at its endpoint."""
    judge_requests: int = Field(8, ge=1)
    """Requests that are kept under way at the endpoint."""

    @model_validator(mode="after")
    def _check_judge(self) -> "PreferJob":
        if (self.judge is None) != (self.judge_model is None):
            raise ConfigError("judge: needs both --judge and --judge-model")
        if self.judge and self.results:
            raise ConfigError("judge: found --results too; a judge's results are shown in any case")
        return self


def main(argv: list[str]) -> int:
    job = read_flags(PreferJob, argv, __doc__ or "")
    from s4v_core.analysis.preference.study import open_study  # late, so that --help stays quick

    settings = _settings_of(job)
    store, drawn = open_study(job.output, settings)
    if drawn:
        show(drawn.as_text())
    code = 0
    if job.judge:
        code = _ask_judge(job, store)
    elif not job.results:
        _serve(job, store)
    _write_results(job, settings, store)
    return code


def _settings_of(job: PreferJob) -> "StudySettings":
    from s4v_core.analysis.caption_texts import name_sets
    from s4v_core.analysis.preference.study import StudySettings

    a, b = name_sets(job.captions, None)
    return StudySettings(a, b, job.images, job.n, job.seed, job.key, job.match_file_names)


def _serve(job: PreferJob, store: "VoteStore") -> None:
    from s4v_core.analysis.preference.question import Preference
    from s4v_core.annotation.ballot import Ballot
    from s4v_core.annotation.server import serve_ballot

    ballot = Ballot(Preference(store.secret), store)

    def tell(address: str) -> None:
        show(f"open {address} to compare {len(store.items):,} images; Ctrl-C ends")
        sys.stdout.flush()

    with store.serving():
        serve_ballot(ballot, job.host, job.port, store.secret, tell)


def _ask_judge(job: PreferJob, store: "VoteStore") -> int:
    from s4v_core.analysis.preference.judging import judge_pairs
    from s4v_core.engines.choice import choose_engine
    from s4v_core.engines.settings import EngineSettings

    settings = EngineSettings(url=job.judge, max_concurrent_requests=job.judge_requests)
    engine = choose_engine("openai", job.judge_model or "", "model", settings)
    outcome = judge_pairs(job.output, store.items, engine)
    show(outcome.as_text())
    return outcome.exit_code


def _write_results(job: PreferJob, settings: "StudySettings", store: "VoteStore") -> None:
    from s4v_core.analysis.preference.judging import read_judges
    from s4v_core.analysis.preference.results import describe_results, show_results
    from s4v_core.runs.derived_files import write_derived

    names = {"a": settings.a.name, "b": settings.b.name, "comparable": "Comparable"}
    judges = read_judges(job.output)
    figures = describe_results(names, store.items, store.read_votes(), judges)
    show(show_results(figures))
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    place = write_derived(job.output, ("results.json",), text.encode("utf-8", "replace"))
    if place:
        show(f"written: {place}")


if __name__ == "__main__":
    run_main(main)
