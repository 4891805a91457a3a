"""Checks a job's model and output folder before anything is trained."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4v_core import storage
from s4v_core.checkpoints import fingerprint, locate_checkpoint
from s4v_core.errors import ConfigError
from s4v_core.model.tokenizer import load_tokenizer
from s4v_core.runs.identity import identify_job, refuse_other_settings
from s4v_core.training.data import order
from s4v_core.training.data.collation import Collator
from s4v_core.training.data.samples import AnyTemplate
from s4v_core.training.data.tokens import Encoder
from s4v_core.training.families.choice import find_family
from s4v_core.training.families.family import Family
from s4v_core.training.left_out import LEFT_OUT_NAME, STOPPED
from s4v_core.training.new_models import NEW_MODELS
from s4v_core.training.stage import FREE_TO_CHANGE, TrainStage
from s4v_core.training.worker.trackers import refuse_missing_trackers

RUN_NAME = "run.json"
_START = "start"
"""Folder below the output of a run with the new model that it starts from."""
_TRAINED = ("metrics.jsonl", "model", "checkpoints", "seen", "adapter", STOPPED)
"""Names that a run writes into its folder once it trains."""

_WRITTEN = ("samples.arrow", "skipped.jsonl", "preparing", LEFT_OUT_NAME, *_TRAINED)
"""Names that a run writes into its folder after run.json."""

_FIRST_ORDER_VERSION = 1
"""Version of the order of runs whose run.json does not have it yet."""


@dataclass(frozen=True, slots=True)
class CheckedStage:
    """A job whose model and output folder have been checked.

    Attributes:
        job: The job.
        model: Folder, URI or hub id of the start model.
        folder: Folder of this machine with the start model's files, without weights.
        family: Family of the start model.
        config: Config of the start model.
        tokenizer: Tokenizer of the start model.
        settings: Everything that changes a number of the run.
    """

    job: TrainStage
    model: str
    folder: Path
    family: Family
    config: Any
    tokenizer: Any
    settings: dict[str, Any]

    @property
    def encoder(self) -> Encoder:
        collator = self.collator
        return Encoder(
            self.tokenizer, collator.image_id, collator.image_tokens, self.job.max_tokens
        )

    @property
    def collator(self) -> Collator:
        return self.family.build_collator(self.job, self.folder, self.config, self.tokenizer)

    @property
    def template(self) -> AnyTemplate:
        return self.family.build_template(self.job, self.folder, self.tokenizer)


def check_stage(job: TrainStage) -> CheckedStage:
    """Check the model, and that the output folder is new or holds this run.

    Raises:
        ConfigError: The model has another architecture, or the output holds another run.
    """
    refuse_missing_trackers(job.log_to)
    model = _make_start_model(job) if job.model in NEW_MODELS else job.model
    folder, revision = locate_checkpoint(model)  # without the weights, which only the workers need
    family = find_family(folder)
    family.check_job(job)
    config = family.read_config(folder)
    tokenizer = load_tokenizer(folder)
    family.check_start(model, config, tokenizer)
    refuse_missing_block(job.learning.vision_from, *family.count_blocks(config))
    resolved = {
        "model_revision": revision or fingerprint(folder),
        "order_version": order.VERSION,
    }
    settings = identify_job(job, FREE_TO_CHANGE, resolved)
    model = storage.absolute(model) if Path(model).is_dir() else model
    _refuse_other_run(job.output, settings)
    return CheckedStage(job, model, folder, family, config, tokenizer, settings)


def has_begun(output: str) -> bool:
    """Whether the run of an output folder has trained a step. Until then all of its settings may
    change, because only the table of samples depends on them, which is made again."""
    return any(storage.exists(storage.join(output, name)) for name in _TRAINED)


def refuse_missing_block(vision_from: int | None, blocks: int, used: int) -> None:
    """Refuse a first learning block that the tower does not have, or that never learns.

    Args:
        blocks: Number of blocks of the tower.
        used: Number of those up to the one whose output is used.
    """
    if vision_from is not None and vision_from >= used:
        raise ConfigError(
            f"learning.vision_from: found {vision_from}, allowed 0 to {used - 1}, the blocks of "
            f"this vision tower of {blocks} whose output is used; leave it away if no block learns"
        )


def _make_start_model(job: TrainStage) -> str:
    """Make a new small model, once per run; returns its folder. One of a start that trained nothing
    may have another seed, so it is made again."""
    kind = NEW_MODELS[job.model]
    refuse_missing_block(job.learning.vision_from, kind.blocks, kind.blocks - 1)
    folder = Path(storage.join(job.output, _START))
    if not has_begun(job.output):
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        kind.write(folder, job.seed)
    return str(folder)


def _refuse_other_run(output: str, settings: dict[str, Any]) -> None:
    uri = storage.join(output, RUN_NAME)
    if storage.stat(uri) is None:
        _refuse_foreign_files(output)
        return
    try:
        found = json.loads(storage.read(uri))["settings"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"output: {uri} is of no training run; choose another --output") from None
    if has_begun(output):
        refuse_other_settings(output, {"order_version": _FIRST_ORDER_VERSION} | found, settings)


def _refuse_foreign_files(output: str) -> None:
    """Refuse a folder with files of the names that a run would write, and no run."""
    for name in _WRITTEN:
        if storage.exists(storage.join(output, name)):
            raise ConfigError(
                f"output: {output} holds {name}, but no training run; choose another --output"
            )
