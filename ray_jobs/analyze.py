"""Analyze captions, one set or several side by side; needs no cluster.

    python ray_jobs/analyze.py s3://bucket/run captions.json --to analysis
    python ray_jobs/analyze.py iiw400.jsonl#IIW iiw400.jsonl#IIW-P5B --to analysis

A set is the folder of a caption run, or a file of records: ShareGPT4V / LLaVA JSON, JSON Lines,
Parquet, COCO results. PLACE#FIELD names the field of the captions. The figures are those of the
paper's Tables 1 and 7 and Figure 7: lengths, parts of speech, root verbs with their nouns; and
vocabulary, distinct-n, repetition and openings. TO/analysis.json holds them all, and
TO/analysis.html is a page that loads nothing. Needs pip install 's4v[analysis]', works offline.
Captions are counted on all cores. Exit code 0: done. 2: bad input, nothing was written.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json
from typing import Annotated

import tyro
from pydantic import Field

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core.config import Config


class AnalyzeJob(Config):
    """Analyze captions, one set or several side by side."""

    captions: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files of records, or folders of caption runs."""
    to: str | None = None
    """Folder to write analysis.json and analysis.html to; without it the table is only printed."""
    field: str | None = None
    """Field or column of the captions; by default it is found."""
    workers: int | None = Field(None, ge=1)
    """Number of processes; by default one for each core."""
    limit: int | None = Field(None, ge=1)
    """Most captions of each set, the first ones; by default all."""


def main(argv: list[str]) -> int:
    job = read_flags(AnalyzeJob, argv, __doc__ or "")
    from s4v_core import storage  # late, so that --help stays quick
    from s4v_core.analysis.caption_texts import name_sets
    from s4v_core.analysis.counting import count_captions
    from s4v_core.analysis.report import build_report, describe_sets, show_sets
    from s4v_core.datasets.record_files import check_free
    from s4v_core.progress import open_bar

    sets = name_sets(job.captions, job.field)
    names = ("analysis.json", "analysis.html")
    targets = [storage.join(job.to, name) for name in names] if job.to else []
    for target in targets:
        check_free(target)
    found = {}
    for one in sets:
        with open_bar(one.name, None, 0, " captions") as bar:
            found[one.name] = count_captions(one.read(job.limit), job.workers, bar.update)
    show(show_sets(found))
    if targets:
        figures = json.dumps(describe_sets(found), indent=2, ensure_ascii=False) + "\n"
        storage.create(targets[0], figures.encode("utf-8", "replace"))
        storage.create(targets[1], build_report(found).encode("utf-8", "replace"))
        show(f"written to {job.to}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    run_main(main)
