"""Make visual instruction data from nothing: a language model writes image prompts and dialogues,
a diffusion model draws the images, a captioner checks them.

Without a GPU, in minutes, nothing to download (drawn scenes):
    python ray_jobs/synthesize.py demo

The twelve abilities of StableLLaVA and more, on a cluster:
    ray job submit -- python ray_jobs/synthesize.py --output s3://bucket/synth --count 1000 \\
        --writer http://host/v1#model --painter org/diffusion --captioner org/captioner \\
        --keep agreed

From files made elsewhere (the released files of StableLLaVA are read as they are):
    python ray_jobs/synthesize.py --dialogues color.json --stages images --stages records \\
        --painter org/diffusion --output out

Each stage resumes by itself: the same command again does what is missing. OUTPUT/records holds
train.json and test.json for finetune.py --data, and shards, a WebDataset with the same records and
their images, for --images; OUTPUT/benchmark is for eval.py --data, and verify.py lets people look
at its questions first; OUTPUT/report.html is the page to look at.
Exit code 0: done. 1: rows are missing. 2: bad input, nothing was done. 3: done, but the writer had
fewer distinct prompts than --count.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from collections.abc import Sequence

from ray_jobs.command_line import parse, run_main, show
from s4v_core import storage
from s4v_core.environment import fill_in_root
from s4v_core.recipes import CAPTION, SYNTHESIS
from s4v_core.synthesis.job import SCRIPTED, STAGES, Stage, SynthesisJob
from s4v_core.synthesis.packaged_writer import replace_packaged_writer

_FEWER = 3


def main(argv: list[str]) -> int:
    job = parse(SYNTHESIS, argv, __doc__ or "", has_places=lambda job: False)
    job = fill_in_root(replace_packaged_writer(drop_unused_places(job)))
    show(job.model_dump_json(indent=2, exclude_defaults=True))
    job = job.replace(output=storage.absolute(job.output))
    from s4v_core.synthesis.report import write_report  # late, so that --help stays quick

    code = 0
    for stage in STAGES:
        if stage not in job.stages:
            continue
        exit_code, text = run_stage(job, stage)
        show(f"{stage}: {text}")
        code = code or exit_code
        if exit_code not in (0, _FEWER):
            return exit_code
    show(f"report: {write_report(job)}")
    return code


def drop_unused_places(job: SynthesisJob) -> SynthesisJob:
    """The job without the models that none of its stages uses: nobody needs to have them."""
    changes: dict[str, str | None] = {}
    if not {"prompts", "dialogues", "benchmark"} & set(job.stages):
        changes["writer"] = SCRIPTED
    if "images" not in job.stages:
        changes["painter"] = SCRIPTED
    if "checks" not in job.stages:
        changes["captioner"] = None
    return job.replace(**changes)


def run_stage(job: SynthesisJob, stage: Stage) -> tuple[int, str]:
    """Run one stage; returns its exit code, and what it has to say."""
    from s4v_core.evaluation.benchmarks.stablellava import ABILITIES
    from s4v_core.evaluation.lemmas import find_forms
    from s4v_core.synthesis.finishing import run_benchmark, run_checks, run_records
    from s4v_core.synthesis.production import RUN_STAGE

    if stage == "checks":
        captions, exit_code, text = _caption_images(job)
        if exit_code not in (0, _FEWER):
            return exit_code, text
        result = run_checks(job, captions, find_forms)
        return result.exit_code, f"{text}\n{result.text}".lstrip()
    if stage == "benchmark":
        result = run_benchmark(job, ABILITIES)
    elif stage == "records":
        result = run_records(job, _find_leaks)
    else:
        result = RUN_STAGE[stage](job)
    return result.exit_code, result.text


def _caption_images(job: SynthesisJob) -> tuple[str, int, str]:
    """Caption all images; returns the folder of the captions, the exit code and the outcome."""
    from s4v_core.captioning.caption_pass import run_pass
    from s4v_core.synthesis.finishing import list_image_inputs

    assert job.captioner, "a job with the stage checks has one"
    output = storage.join(job.output, "checks", "captions")
    demo = CAPTION["demo"]
    outcome = run_pass(
        demo.replace(
            input=list_image_inputs(job),
            output=output,
            model=job.captioner,
            demo_scenes=0,
            engines=job.workers,
            accelerator=job.accelerator,
            settings=job.settings,
        )
    )
    return output, outcome.exit_code, outcome.as_text() if outcome.has_run else ""


def _find_leaks(benchmark: str, pairs: Sequence[tuple[str, str]]) -> set[int]:
    """Places of the pairs that answer a question of a benchmark."""
    from s4v_core.evaluation.benchmarks.stablellava import STABLELLAVA, find_leaks
    from s4v_core.evaluation.scoring import read_questions

    leaks = find_leaks(read_questions(STABLELLAVA, benchmark), pairs)
    return {place for places in leaks.values() for place in places}


if __name__ == "__main__":
    run_main(main)
