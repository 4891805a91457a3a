"""Let people say which questions of a benchmark are right, and what is wrong with the others.

    python ray_jobs/verify.py out/demo/synthesis
    python ray_jobs/verify.py s3://bucket/synth --votes votes
    python ray_jobs/verify.py out/demo/synthesis --results

OUTPUT is that of synthesize.py after its stage benchmark. A page is open until Ctrl-C, on which any
number of people look at each image with its question and answer. Each opens the link and enters a
name, or opens the link with ?rater=NAME. Keys: 1 right, 2 question or answer wrong, 3 image wrong,
Backspace to go back. Every vote is on the disk before the page says so; the same command goes on,
with the questions that are new since. At the end the marks are written to
OUTPUT/benchmark/verification.json, where synthesize.py --stages benchmark --stages records reads
them. Exit code 0: done. 2: bad input.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core import storage
from s4v_core.config import Config

if TYPE_CHECKING:
    from s4v_core.annotation.vote_store import VoteStore


class VerifyJob(Config):
    """Let people say which questions of a benchmark are right."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder of a synthesis, on any fsspec URI, whose stage benchmark is done."""
    votes: str | None = None
    """Folder of the votes, on a disk of this machine. Default: OUTPUT/benchmark/votes."""
    host: str = "127.0.0.1"
    """Address to listen on. By default only this machine reaches the page. With 0.0.0.0 everybody
    who has the link reaches it; the link then holds a key. The connection is not encrypted."""
    port: int = Field(8766, ge=0, le=65_535)
    """Port to listen on; 0 takes any free one."""
    results: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only write the marks so far; also while the page is open elsewhere."""


def main(argv: list[str]) -> int:
    job = read_flags(VerifyJob, argv, __doc__ or "")
    from s4v_core.synthesis.verification import (  # late, so that --help stays quick
        open_votes,
        write_marks,
    )

    folder = storage.join(job.output, "benchmark")
    store = open_votes(folder, job.votes or storage.join(folder, "votes"))
    if not job.results:
        _serve(job, folder, store)
    show(write_marks(folder, store))
    return 0


def _serve(job: VerifyJob, folder: str, store: "VoteStore") -> None:
    from s4v_core.annotation.ballot import Ballot
    from s4v_core.annotation.server import serve_ballot
    from s4v_core.synthesis.verification import Verification, read_items

    def tell(address: str) -> None:
        show(f"open {address} to look at {len(store.items):,} questions; Ctrl-C ends")
        sys.stdout.flush()

    with store.serving():
        store.add_items(read_items(folder))
        ballot = Ballot(Verification(folder), store)
        serve_ballot(ballot, job.host, job.port, store.secret, tell)


if __name__ == "__main__":
    run_main(main)
