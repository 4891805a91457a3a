"""Train the demo painter: a text-to-image model of four million parameters, on drawn scenes.

    python ray_jobs/train_painter.py demo

Draws the scenes, teaches a text encoder their prompts and a U-Net to draw, about half an hour on
one core, and writes OUTPUT/model, a pipeline that diffusers loads (with s4v installed, which holds
its image codec). At the end it draws scenes that it never saw and lets the demo captioner say what
is in them. The package comes with a painter that was made this way.

Needs s4v[synthesis]. Running the same command again resumes from the newest checkpoint.
Exit code 0: the pipeline is written. 2: bad input.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from importlib import util

from ray_jobs.command_line import parse, run_main, show
from s4v_core.errors import ConfigError
from s4v_core.recipes import PAINTER


def main(argv: list[str]) -> int:
    is_named = argv[:1] and not argv[0].startswith("-")
    job = parse(PAINTER, argv if is_named else ["demo", *argv], __doc__ or "")
    show(job.model_dump_json(indent=2))
    if not util.find_spec("diffusers"):
        raise ConfigError("train_painter: needs the package diffusers; install s4v[synthesis]")
    from s4v_core.demo.painter_score import score_painter  # late, so that --help stays quick
    from s4v_core.demo.painter_training import train_painter

    model = train_painter(job)
    show(f"{model}: a pipeline of diffusers")
    if job.scored:
        show(f"the demo captioner on its pictures: {score_painter(model, job.scored).as_text()}")
    return 0


if __name__ == "__main__":
    run_main(main)
