"""Captions of a run in a format that others read; the ending of the name says which.

python ray_jobs/export.py s3://bucket/run --to captions.json      ShareGPT4V JSON, for training
python ray_jobs/export.py s3://bucket/run --to captions.jsonl     all rows and columns
python ray_jobs/export.py s3://bucket/run --to captions.parquet   the same in one file
python ray_jobs/export.py s3://bucket/run --to captions.tar       WebDataset sidecars
python ray_jobs/export.py s3://bucket/run --to sidecars/          the same, a tar beside each shard
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
from s4v_core.captioning.export import export_run
from s4v_core.config import Config


class ExportJob(Config):
    """Captions of a run in a format that others read."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    to: str
    """File to write: .json (ShareGPT4V), .jsonl, .parquet or .tar; or a folder ending in /, for one
    .tar per input shard, of its name."""


def main(argv: list[str]) -> int:
    job = read_flags(ExportJob, argv, __doc__ or "")
    count = export_run(job.output, job.to)
    print(f"{count} rows written to {job.to}")
    return 0


if __name__ == "__main__":
    run_main(main)
