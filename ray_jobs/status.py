"""How far a caption run is, from its output alone; needs no cluster.

python ray_jobs/status.py s3://bucket/run
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import Annotated

import tyro

from ray_jobs.command_line import read_flags, run_main
from s4v_core.captioning.status import read_status
from s4v_core.config import Config


class StatusJob(Config):
    """How far a caption run is, from its output alone."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""


def main(argv: list[str]) -> int:
    job = read_flags(StatusJob, argv, __doc__ or "")
    status = read_status(job.output)
    print(status.as_text())
    return 0


if __name__ == "__main__":
    run_main(main)
