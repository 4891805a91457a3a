"""Score how well the captions of a finished run fit their images, by any CLIP or SigLIP.

    python ray_jobs/score.py s3://bucket/run --model openai/clip-vit-large-patch14
    ray job submit -- python ray_jobs/score.py s3://bucket/run --model org/name --workers 8

A new run is scored as it goes by caption.py --quality.model. The scores lie in
OUTPUT/quality/*.parquet, one row per image (image_id, score, ...), and the report shows them. The
captions stay as they are. The same command again resumes, also after the run has grown.
Exit code 0: every image has its row. 1: some are missing. 2: bad input, nothing was done.
4: every image has its row, and not one has a score.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import Annotated, Literal

import tyro
from pydantic import Field

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core.captioning.quality import Quality
from s4v_core.config import Config


class ScoreJob(Config):
    """Score how well the captions of a run fit their images."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    model: str
    """CLIP or SigLIP checkpoint: a folder on any URI, or a hub id."""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """Device of the workers; auto takes the CPU if the CPU build of torch is installed, else a
    GPU."""
    batch_size: int = Field(32, ge=1)
    """Most captions that are scored together."""
    prefix: str = ""
    """Text in front of what is scored. The published CLIPScore takes 'A photo depicts '."""
    workers: int = Field(1, ge=1)
    """Number of workers, each on a GPU of its own if they take GPUs."""
    accelerator: str | None = None
    """GPU type that workers are pinned to, by Ray's name for it: A100-80G, A100, H100, ..."""
    retry_errors: tyro.conf.FlagCreatePairsOff[bool] = False
    """Score images without a score again, as after caption.py --retry-errors."""


def main(argv: list[str]) -> int:
    job = read_flags(ScoreJob, argv, __doc__ or "")
    from s4v_core.captioning.score_pass import score_run  # late, so that --help stays quick
    from s4v_core.flow.spec import Engines

    quality = Quality(
        model=job.model, device=job.device, batch_size=job.batch_size, prefix=job.prefix
    )
    outcome = score_run(
        job.output, quality, Engines(job.workers, job.accelerator), heal=job.retry_errors
    )
    show(outcome.as_text())
    return outcome.exit_code


if __name__ == "__main__":
    run_main(main)
