"""The body of the three training scripts: print the job, then plan, show samples, or train."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray_jobs.command_line import BAD_INPUT, complain, parse, show, split_recipe
from s4v_core import storage
from s4v_core.environment import fill_in_root, has_root, needs_root
from s4v_core.errors import ChangedInputError, StorageError
from s4v_core.recipes import PAPER_MEMORY_GB, PUBLISHED_UTILISATION
from s4v_core.storage import UnreachableError
from s4v_core.training.stage import TrainStage

if TYPE_CHECKING:
    from s4v_core.evaluation.checkpoint_evaluator import CheckpointEvaluator

CHANGED_INPUT = 3
"""Exit code if data or images are no longer those that a run was begun with, as for captions."""


def train_main(recipes: Mapping[str, TrainStage], argv: list[str], manual: str) -> int:
    """Run a training script; returns 0 once the trained model is exported."""
    name, _ = split_recipe(recipes, argv)
    recipe = recipes[name]
    job = _drop_leftovers(parse(recipes, argv, manual, has_places=lambda job: False), recipe)
    has_own_data, has_own_sizes = job.data != recipe.data, job.expected != recipe.expected
    if not job.plan or has_root():  # a plan can be made without data
        job = fill_in_root(job)
    show(job.model_dump_json(indent=2))
    if job.plan:
        from s4v_core.training.estimate.switches import describe_switches, find_machine

        is_there = not needs_root(job.data) and all(map(storage.exists, job.data))
        show(_plan(job, not has_own_sizes and (has_own_data or is_there)))
        show("\n" + describe_switches(job, find_machine(job)))
        return 0
    if job.show:
        from s4v_core.training.show import show_samples

        for text in show_samples(job):
            print(text)
        return 0
    from s4v_core.training.run import run_stage

    try:
        outcome = run_stage(job, _find_evaluator(job))
    except ChangedInputError as error:
        complain(error)
        return CHANGED_INPUT
    except UnreachableError:  # a later start may find the store well again
        raise
    except StorageError as error:  # without a writable output nothing can be trained
        complain(error)
        return BAD_INPUT
    show(outcome.as_text())
    return outcome.exit_code


def _drop_leftovers(job: TrainStage, recipe: TrainStage) -> TrainStage:
    """The job without what its recipe says about data that the job replaces: a demo world would be
    drawn into any folder with a typo, and a root would be missed that nothing needs."""
    has_own_data, has_own_images = job.data != recipe.data, job.images != recipe.images
    changes: dict[str, Any] = {}
    if (has_own_data or has_own_images) and job.demo_scenes == recipe.demo_scenes:
        changes["demo_scenes"] = 0
    draws = job.replace(**changes).demo_scenes > 0
    if has_own_data and not has_own_images and not draws:
        changes["images"] = ()  # they lie in the JSON's own folder, as without a recipe
    is_recipes_root = job.image_root == recipe.image_root and needs_root(job.image_root)
    if is_recipes_root and (has_own_images or (has_own_data and not has_root())):
        changes["image_root"] = None
    return job.replace(**changes) if changes else job


def _find_evaluator(job: TrainStage) -> "CheckpointEvaluator | None":
    """The evaluator of a stage's checkpoints, checked; None if it names no benchmarks.

    Raises:
        ConfigError, InputError: A benchmark or its files do not fit.
    """
    wanted = job.evaluation
    if not wanted.is_on:
        return None
    from s4v_core.engines.settings import EngineSettings
    from s4v_core.evaluation.checkpoint_evaluator import CheckpointEvaluator
    from s4v_core.evaluation.job import EvalJob

    found = CheckpointEvaluator(
        EvalJob(
            model=job.model,
            benchmarks=wanted.benchmarks,
            data=storage.absolute(wanted.data),
            output=job.output,
            limit=wanted.limit,
            max_tokens=wanted.max_tokens,
            accelerator=job.accelerator,
            settings=EngineSettings(device="cpu" if job.device == "cpu" else "auto"),
        )
    )
    found.check()
    return found


def _plan(job: TrainStage, counts_data: bool) -> str:
    from s4v_core.training.estimate.forecast import (
        Published,
        forecast_stage,
    )  # late, so that --help stays quick

    published = None
    if job.accelerator:
        # Table 6 is about the paper's pretraining alone.
        memory = PAPER_MEMORY_GB if job.stage == "pretrain" else {}
        published = Published(memory, PUBLISHED_UTILISATION)
    return forecast_stage(job, published, counts_data).as_text()
