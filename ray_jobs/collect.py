"""Collect a teacher's captions, as ShareGPT4V did with GPT4-Vision: prompts that fit each image's
source, and each image exactly one row.

    export OPENAI_API_KEY=...
    python ray_jobs/collect.py --input images --output out/collected --model gpt-4o \\
        --endpoint.url https://api.openai.com/v1 --budget.requests-per-minute 500 \\
        --budget.input-price 2.5 --budget.output-price 10 --budget.spending 50 --plan

Without --plan the same command collects. It resumes, and pays for no answer twice that has arrived.
The rows lie in OUTPUT/captions/*.parquet like those of caption.py, with prompt_parts, cost_micro,
endpoint and served_model beside them; status.py, export.py, analyze.py and dataset.py read them.
docs/collecting.md describes all of it.
Exit code 0: every image has its row. 1: some are missing, or the spending limit ended the job.
2: bad input, nothing was done. 3: done, but an input is damaged, or has changed.
4: every image has its row, and not one has a caption.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_jobs.command_line import parse, run_main, show
from s4v_core.recipes import COLLECT
from s4v_core.terminal import printable

_SHOWN_CAPTIONS = 4


def main(argv: list[str]) -> int:
    job = parse(COLLECT, argv, __doc__ or "")
    # run.json holds all of it; the patterns of the gate would fill the screen.
    show(job.model_dump_json(indent=2, exclude={"gate": {"refusals", "boilerplate"}}))
    if job.plan:
        from s4v_core.collection.forecast import make_forecast  # late, so that --help stays quick

        show(make_forecast(job).as_text())
        return 0
    from s4v_core.captioning.first_captions import read_first_captions
    from s4v_core.collection.collect_pass import run_collection

    ended = run_collection(job)
    for image_id, text in read_first_captions(ended.outcome.output, _SHOWN_CAPTIONS):
        show(f"  {printable(image_id)}: {printable(text)}")
    show(ended.as_text())
    return ended.exit_code


if __name__ == "__main__":
    run_main(main)
