"""Show how far a run is, from its output alone; needs no cluster.

    python ray_jobs/status.py s3://bucket/run

Print how its captions differ from those of another run over the same images:
    python ray_jobs/status.py s3://bucket/run --compare-with s3://bucket/other
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import Annotated

import tyro

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core.captioning.comparison import compare_runs
from s4v_core.captioning.row_checks import build_checks
from s4v_core.config import Config
from s4v_core.records.captions import CAPTIONS, contract_of
from s4v_core.records.plan import require_plan_head
from s4v_core.records.units import UnitFolder
from s4v_core.runs.status import open_units, read_status
from s4v_core.runs.verification import RowChecks, verify_run
from s4v_core.synthesis.painting import PAINTED
from s4v_core.synthesis.painting_checks import build_painting_checks


class StatusJob(Config):
    """Show how far a run is, from its output alone."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    verify: tyro.conf.FlagCreatePairsOff[bool] = False
    """Read every row and prove it against the plan. Exit code 1 if anything is wrong."""
    compare_with: str | None = None
    """Folder of another run over the same images; how the captions of the images that both have
    differ is printed."""


def main(argv: list[str]) -> int:
    job = read_flags(StatusJob, argv, __doc__ or "")
    kinds = {CAPTIONS.folder: contract_of, PAINTED.folder: lambda settings: PAINTED}
    units = open_units(job.output, kinds)
    show(read_status(units).as_text())
    if job.compare_with:
        show(compare_runs(job.output, job.compare_with).as_text())
    if job.verify:
        verification = verify_run(units, _choose_checks(units))
        show(verification.as_text())
        return 0 if verification.is_sound else 1
    return 0


def _choose_checks(units: UnitFolder) -> RowChecks | None:
    """The checks of one kind of run; None for a kind that has no others than every run."""
    if units.contract.folder == CAPTIONS.folder:
        return build_checks(require_plan_head(units.output).settings)
    return build_painting_checks(units.output) if units.contract == PAINTED else None


if __name__ == "__main__":
    run_main(main)
