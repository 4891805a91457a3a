"""The body of the three training scripts: print the job, then plan, show samples, or train."""

from collections.abc import Mapping

from ray_jobs.command_line import BAD_INPUT, complain, parse, show
from s4v_core.errors import StorageError
from s4v_core.recipes import PAPER_MEMORY_GB, PUBLISHED_UTILISATION
from s4v_core.storage import UnreachableError
from s4v_core.training.stage import TrainStage


def train_main(recipes: Mapping[str, TrainStage], argv: list[str], manual: str) -> int:
    """Run a training script; returns 0 once the trained model is exported."""
    # A plan reads no data, so it needs no storage root.
    job = parse(recipes, argv, manual, has_places=lambda job: not job.plan)
    show(job.model_dump_json(indent=2))
    if job.plan:
        from s4v_core.training.estimate.forecast import (
            Published,
            forecast_stage,
        )  # late, so that --help stays quick

        published = Published(PAPER_MEMORY_GB, PUBLISHED_UTILISATION) if job.accelerator else None
        show(forecast_stage(job, published).as_text())
        return 0
    if job.show:
        from s4v_core.training.show import show_samples

        for text in show_samples(job):
            print(text)
        return 0
    from s4v_core.training.run import run_stage

    try:
        outcome = run_stage(job)
    except UnreachableError:  # a later start may find the store well again
        raise
    except StorageError as error:  # without a writable output nothing can be trained
        complain(error)
        return BAD_INPUT
    show(outcome.as_text())
    return outcome.exit_code
