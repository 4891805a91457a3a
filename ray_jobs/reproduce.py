"""Replay the paper's tables and figures, with intervals, through every part of this system.

In miniature, without a GPU and with nothing to download; two cores need two to four hours:
    python ray_jobs/reproduce.py demo --study table4 --seeds 5

Whether everything runs, at sizes at which nothing is learned:
    python ray_jobs/reproduce.py demo --quick --seeds 1

What a study costs, and which differences its seeds can show; nothing is run:
    python ray_jobs/reproduce.py demo --study all --plan

The full study on 16 A100s, arm by arm; it is priced, and its arms are run by the scripts that the
price names:
    python ray_jobs/reproduce.py paper --plan

The same command again resumes; the first Ctrl-C finishes the commands that run, a second one stops.
OUTPUT gets report.html, the outputs of all commands (runs/), and what each of them printed (logs/).
Exit code 0: all is done. 1: commands are missing or failed. 2: bad input, nothing was done.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_jobs.command_line import parse, run_main, show, split_recipe
from s4v_core.errors import ConfigError
from s4v_core.reproduction.job import ReproduceJob

_RECIPES = {
    "demo": ReproduceJob(),
    "paper": ReproduceJob(study=("all",), seeds=1, output="$S4V_ROOT/reproduce"),
}


def main(argv: list[str]) -> int:
    name, _ = split_recipe(_RECIPES, argv)
    job = parse(_RECIPES, argv, __doc__ or "", has_places=lambda job: name == "demo")
    if name == "paper":
        return _price_paper(job)
    from s4v_core.reproduction.running import open_reproduction  # late, so that --help is quick

    found = open_reproduction(job)
    show(job.model_dump_json(indent=2))
    if job.plan:
        show(found.describe())
        return 0
    if job.report:
        show(f"report: {found.report()}")
        return 0
    show(found.describe())
    outcome = found.run()
    show(outcome.as_text())
    show(f"report: {found.report()}")
    return int(outcome.missing > 0)


def _price_paper(job: ReproduceJob) -> int:
    if not job.plan:
        raise ConfigError(
            "recipe: paper is priced by --plan; run its stages by the scripts that the plan names"
        )
    from ray_jobs.paper_price import describe_price

    show(describe_price())
    return 0


if __name__ == "__main__":
    run_main(main)
