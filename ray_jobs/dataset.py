"""Audit, mix, sample, convert, export, describe and draw data sets in ShareGPT4V / LLaVA JSON.

    python ray_jobs/dataset.py audit data.json --images data --to audit
    python ray_jobs/dataset.py mix llava_v1_5_mix665k.json --captions cap100k.json --to mix.json
    python ray_jobs/dataset.py sample captions.json --count 100000 --to captions_100k.json
    python ray_jobs/dataset.py convert captions.json --to captions.parquet
    python ray_jobs/dataset.py shards captions.json --images data --to shards
    python ray_jobs/dataset.py card captions.json --to README.md
    python ray_jobs/dataset.py draw lessons --views 1000 --seed 1

Files are JSON arrays, JSON Lines (both also compressed) and Parquet, on any URI, and of any size;
folders of Parquet, or that `datasets` saved, are read, too. Records are read one by one, and a
record that is kept stays as it is, byte for byte; the ending of --to says the form. Nothing is ever
written over, and no cluster is needed. `dataset.py audit --help` lists a command's flags.
Exit code 0: done. 2: bad input, nothing was written. 3: written, and records were left out by audit
or shards.
"""

import sys
from collections.abc import Callable
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core.config import Config
from s4v_core.errors import ConfigError

_LEFT_OUT = 3


class AuditJob(Config):
    """Find what is missing, damaged or faulty, and write the data set again without it."""

    data: Annotated[str, tyro.conf.Positional]
    """File of records: .json, .jsonl or .parquet."""
    images: tuple[str, ...] = ()
    """Folder, tars, Parquet or another input with the images; may be repeated. Without it only the
    records are judged."""
    to: str
    """Folder to write: audit.json, problems.jsonl, manifest.parquet and cleaned.json."""
    check: Literal["names", "pixels"] = "names"
    """Whether images are only looked up, or decoded, too."""


class MixJob(Config):
    """Replace the detailed descriptions of a mixture by captions (Sec. 4.3)."""

    data: Annotated[str, tyro.conf.Positional]
    """File with the mixture, such as LLaVA's 665K."""
    captions: str
    """File with the captions, such as the 100K of GPT4-Vision."""
    to: str
    """File to write; what replaced what is written beside it, as TO.replaced.jsonl."""
    quota: tuple[str, ...] = ()
    """Captions of an image source, such as coco=9000; may be repeated. By default the paper's 23K:
    coco=9000, lcs=3000, sam=9000 and others=2000, which are all sources without a quota."""
    scale: float = Field(1.0, gt=0)
    """Factor on every quota. A smaller one takes a part of the same captions."""
    surplus: Literal["keep", "drop"] = "keep"
    """Treatment of detailed descriptions beyond the quotas. The published file has 240 records
    fewer than LLaVA's mixture, as if its surplus had been dropped."""
    questions: str | None = None
    """File with one question per line, by which detailed descriptions are told; by default the
    twelve known ones."""
    seed: int = 0
    """Seed of the choice."""


class SampleJob(Config):
    """Write a random subset of a data set, in its order."""

    data: Annotated[str, tyro.conf.Positional]
    """File of records."""
    to: str
    """File to write."""
    count: int = Field(100_000, ge=0)
    """Number of records. With one seed, smaller samples are parts of larger ones."""
    seed: int = 0
    """Seed of the choice."""


class FormJob(Config):
    """Write a data set in another form: .json, .jsonl or .parquet."""

    data: Annotated[str, tyro.conf.Positional]
    """File of records."""
    to: str
    """File to write."""


class ShardsJob(Config):
    """Write a data set with its images as WebDataset shards."""

    data: Annotated[str, tyro.conf.Positional]
    """File of records."""
    images: tuple[str, ...]
    """Folder, tars, Parquet or another input with the images; may be repeated."""
    to: str
    """Folder to write, without any files."""
    shard_size: str = "1GB"
    """Size of a shard: 1GB, 500MB, or a number of samples such as 10000."""
    match_file_names: tyro.conf.FlagCreatePairsOff[bool] = False
    """Whether an image may be found by its file name alone, whatever its folders and ending."""


class CardJob(Config):
    """Write the card of a data set: counts, provenance, licences."""

    data: Annotated[str, tyro.conf.Positional]
    """File of records."""
    to: str = "README.md"
    """Markdown file to write."""
    provenance: tuple[str, ...] = ()
    """Sentence about where the texts come from; may be repeated. ShareGPT4V's own files need
    none."""
    licence: str = ""
    """Licence of the texts. ShareGPT4V's own files need none."""


class DrawJob(Config):
    """Draw views of the demo world that reproduce.py studies, with captions and questions."""

    to: Annotated[str, tyro.conf.Positional]
    """Folder to write: tar shards, and a JSON for each source of captions and kind of lesson; or
    an exam in the layouts of MME, MMBench and VQAv2."""
    views: int = Field(1000, ge=1)
    """Number of pictures."""
    seed: int = 0
    """Seed of the pictures and texts; the same seed always gives the same files."""
    exam: tyro.conf.FlagCreatePairsOff[bool] = False
    """Draw an exam, whose pairs of colour and shape are in no lesson."""


def _audit(job: AuditJob) -> int:
    from s4v_core.datasets.audit import audit_records
    from s4v_core.progress import open_bar

    with open_bar("looking for images", None, 0, " images") as bar:
        report = audit_records(job.data, job.images, job.to, job.check, bar.update)
    show(report.as_text())
    return _LEFT_OUT if report.left_out else 0


def _mix(job: MixJob) -> int:
    from s4v_core import storage
    from s4v_core.datasets.detail_questions import DETAIL_QUESTIONS
    from s4v_core.datasets.mixing import mix_captions, parse_quotas
    from s4v_core.recipes import MIX_QUOTAS

    questions: tuple[str, ...] = DETAIL_QUESTIONS
    if job.questions:
        lines = storage.read(job.questions).decode().splitlines()
        questions = tuple(line for line in lines if line.strip())
    quotas = parse_quotas(job.quota or MIX_QUOTAS, job.scale)
    report = mix_captions(
        job.data,
        job.captions,
        job.to,
        quotas,
        seed=job.seed,
        surplus=job.surplus,
        questions=questions,
    )
    show(report.as_text())
    return 0


def _sample(job: SampleJob) -> int:
    from s4v_core.datasets.sampling import sample_records

    show(sample_records(job.data, job.to, job.count, job.seed).as_text())
    return 0


def _convert(job: FormJob) -> int:
    from s4v_core.datasets.sampling import convert_records

    show(f"{convert_records(job.data, job.to):,} records written to {job.to}")
    return 0


def _write_shards(job: ShardsJob) -> int:
    from s4v_core.datasets.image_shards import write_record_shards

    report = write_record_shards(job.data, job.images, job.to, job.shard_size, job.match_file_names)
    show(report.as_text())
    return _LEFT_OUT if report.left_out else 0


def _write_card(job: CardJob) -> int:
    from s4v_core.datasets.set_card import write_set_card

    facts = write_set_card(job.data, job.to, job.provenance, job.licence)
    show(f"card of {facts['records']:,} records written to {job.to}")
    return 0


def _draw(job: DrawJob) -> int:
    from s4v_core.demo.world.files import write_exam, write_lessons

    (write_exam if job.exam else write_lessons)(job.to, job.views, job.seed)
    show(f"{job.views:,} views written to {job.to}")
    return 0


COMMANDS: dict[str, tuple[type[Config], Callable[[Any], int]]] = {
    "audit": (AuditJob, _audit),
    "mix": (MixJob, _mix),
    "sample": (SampleJob, _sample),
    "convert": (FormJob, _convert),
    "shards": (ShardsJob, _write_shards),
    "card": (CardJob, _write_card),
    "draw": (DrawJob, _draw),
}
"""The flags and the work of each command."""


def main(argv: list[str]) -> int:
    command, flags = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help"):
        show((__doc__ or "").strip())
        return 0
    if command not in COMMANDS:
        raise ConfigError(f"command: found {command!r}, allowed {', '.join(COMMANDS)}")
    kind, work = COMMANDS[command]
    return work(read_flags(kind, flags, __doc__ or "", program=f"{sys.argv[0]} {command}"))


if __name__ == "__main__":
    run_main(main)
