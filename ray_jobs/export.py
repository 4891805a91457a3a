"""Captions of a run in a format that others read; the ending of the name says which:
    python ray_jobs/export.py s3://bucket/run --to captions.json      ShareGPT4V JSON, for training
    python ray_jobs/export.py s3://bucket/run --to captions.jsonl     all rows and columns
    python ray_jobs/export.py s3://bucket/run --to captions.parquet   the same in one file
    python ray_jobs/export.py s3://bucket/run --to captions.tar       WebDataset sidecars
    python ray_jobs/export.py s3://bucket/run --to sidecars/          the same, a tar for each shard
    python ray_jobs/export.py s3://bucket/run --to hf://datasets/me/captions     with the data card

With the images, never re-encoded:
    python ray_jobs/export.py s3://bucket/run --to shards/ --with-images                WebDataset
    python ray_jobs/export.py s3://bucket/run --to folder/ --with-images --form files

--form files writes image files with a .txt beside each and a meta_cap.json, which kohya's
sd-scripts, OneTrainer and SimpleTuner load.

A file that this run did not write itself is never replaced. Exit code 0: all is written. 1: the run
is unfinished, nothing was written. 2: bad input, nothing was written. 3: written, but some images
could not be read any more.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import Annotated, Literal

import tyro

from ray_jobs.command_line import read_flags, run_main, show, warn
from s4v_core.captioning.export import export_run
from s4v_core.config import Config


class ExportJob(Config):
    """Captions of a run in a format that others read."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    to: str
    """File to write: .json (ShareGPT4V), .jsonl, .parquet or .tar; or a folder ending in /, for one
    .tar per input shard, of its name; or hf://datasets/ORG/NAME, for a commit to the hub."""
    partial: tyro.conf.FlagCreatePairsOff[bool] = False
    """Export a run that is unfinished, too; its images without a row are left out."""
    with_images: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write each image beside its caption, byte for byte as it is stored, to a new folder."""
    form: Literal["webdataset", "files"] = "webdataset"
    """Layout with images: tar shards, or image files with a .txt of the same name beside each."""
    shard_size: str = "1GB"
    """Size of a tar shard with images: 1GB, 500MB, or a number of images such as 10000."""


def main(argv: list[str]) -> int:
    job = read_flags(ExportJob, argv, __doc__ or "")
    exported = export_run(
        job.output,
        job.to,
        partial=job.partial,
        with_images=job.with_images,
        form=job.form,
        shard_size=job.shard_size,
    )
    if exported.gap:
        warn(f"the run is unfinished, and so is the export: {exported.gap}")
    show(exported.as_text())
    return exported.exit_code


if __name__ == "__main__":
    run_main(main)
