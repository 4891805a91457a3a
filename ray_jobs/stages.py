"""What the three training scripts share: show the job, then plan, show samples, or train."""

from collections.abc import Mapping

from ray_jobs.command_line import BAD_INPUT, complain, parse
from s4v_core.errors import StorageError
from s4v_core.recipes import PAPER_MEMORY_GB, PUBLISHED_UTILISATION
from s4v_core.training.stage import TrainStage


def train_main(recipes: Mapping[str, TrainStage], argv: list[str], manual: str) -> int:
    """Exit code 0 once the trained model is exported."""
    # A plan needs no storage root: nothing of it is read.
    job = parse(recipes, argv, manual, has_places=lambda job: not job.plan)
    print(job.model_dump_json(indent=2))
    if job.plan:
        from s4v_core.training.estimate.forecast import Published, forecast  # --help stays quick

        published = Published(PAPER_MEMORY_GB, PUBLISHED_UTILISATION) if job.accelerator else None
        print(forecast(job, published).as_text())
        return 0
    if job.show:
        from s4v_core.training.show import show_samples

        for text in show_samples(job):
            print(text)
        return 0
    from s4v_core.training.run import run_stage

    try:
        outcome = run_stage(job)
    except StorageError as error:  # the output cannot take what is trained: nothing else helps
        complain(error)
        return BAD_INPUT
    print(outcome.as_text())
    return outcome.exit_code
