"""Caption every image of the input, each exactly once.

Without a GPU, in a minute, nothing to download (drawn scenes, demo captioner):
    python ray_jobs/caption.py demo

The paper's pass on a cluster, images and captioner below $S4V_ROOT:
    ray job submit -- python ray_jobs/caption.py

Any images with any vision model that vLLM serves:
    python ray_jobs/caption.py --input 's3://bucket/shards/{0000..0999}.tar' \\
        --output s3://bucket/run --model org/name --limit 20

The same command again resumes; the first Ctrl-C finishes the units in flight, a second one stops.
Exit code 0: every image has its row. 1: some are missing. 2: bad input, nothing was done.
3: done, but an input is damaged, cannot be listed, or has changed under a run with --limit.
4: every image has its row, and not one has a caption.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_jobs.command_line import parse, run_main, show, split_recipe
from s4v_core.captioning.job import CaptionJob
from s4v_core.recipes import CAPTION
from s4v_core.terminal import printable

_SHOWN_CAPTIONS = 8


def main(argv: list[str]) -> int:
    recipe = CAPTION[split_recipe(CAPTION, argv)[0]]
    job = drop_demo_scenes(parse(CAPTION, argv, __doc__ or ""), recipe)
    from s4v_core.captioning.caption_pass import (  # --help stays quick
        DEMO_NOTICE,
        run_pass,
        score_demo,
    )
    from s4v_core.captioning.comparison import compare_runs
    from s4v_core.captioning.first_captions import read_first_captions
    from s4v_core.captioning.forecast import make_forecast
    from s4v_core.runs.outcome import Outcome

    # run.json holds all of it; the patterns of the gate would fill the screen.
    show(job.model_dump_json(indent=2, exclude={"gate": {"refusals", "boilerplate"}}))
    if job.plan:
        show(make_forecast(job).as_text())
        return 0
    outcome: Outcome = run_pass(job, lambda checked: show("\n".join(checked.notes)))
    for image_id, text in read_first_captions(outcome.output, _SHOWN_CAPTIONS):
        show(f"  {printable(image_id)}: {printable(text)}")
    show(outcome.as_text())
    if job.compare_with:
        show(compare_runs(outcome.output, job.compare_with).as_text())
    if job.demo_scenes:
        print(score_demo(outcome.output).as_text())
        print(DEMO_NOTICE)
    return outcome.exit_code


def drop_demo_scenes(job: CaptionJob, recipe: CaptionJob) -> CaptionJob:
    """The job without the demo's scenes where its input is another one than the recipe's: they
    would be drawn into any folder with a typo."""
    is_leftover = job.input != recipe.input and job.demo_scenes == recipe.demo_scenes
    return job.replace(demo_scenes=0) if is_leftover else job


if __name__ == "__main__":
    run_main(main)
