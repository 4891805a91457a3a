"""Checks a job's model and output folder before anything is trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlavaConfig

from s4v_core import storage
from s4v_core.checkpoints import fingerprint, locate_checkpoint
from s4v_core.errors import ConfigError
from s4v_core.model.learning import count_config_blocks
from s4v_core.runs.identity import identify_job, refuse_other_settings
from s4v_core.training.data import order
from s4v_core.training.data.collation import Collator
from s4v_core.training.data.tokens import Encoder
from s4v_core.training.left_out import LEFT_OUT_NAME, STOPPED
from s4v_core.training.stage import FREE_TO_CHANGE, NEW_DEMO, TrainStage

RUN_NAME = "run.json"
_START = "start"
"""Folder below the output of a run with the new model that it starts from."""
_WRITTEN = (
    *("samples.arrow", "skipped.jsonl", "metrics.jsonl", "model", "checkpoints", "seen"),
    *(LEFT_OUT_NAME, STOPPED),
)
"""Names that a run writes into its folder after run.json."""

_FIRST_ORDER_VERSION = 1
"""Version of the order of runs whose run.json does not have it yet."""


@dataclass(frozen=True, slots=True)
class CheckedStage:
    """A job whose model and output folder have been checked.

    Attributes:
        job: The job.
        model: Folder, URI or hub id of the start model.
        config: Config of the start model.
        tokenizer: Tokenizer of the start model.
        settings: Everything that changes a number of the run.
    """

    job: TrainStage
    model: str
    config: LlavaConfig
    tokenizer: Any
    settings: dict[str, Any]

    @property
    def encoder(self) -> Encoder:
        return Encoder(
            self.tokenizer,
            self.config.image_token_index,
            self.collator.image_tokens,
            self.job.max_tokens,
        )

    @property
    def collator(self) -> Collator:
        vision = self.config.vision_config
        return Collator(
            self.config.image_token_index,
            (vision.image_size // vision.patch_size) ** 2,
            self.tokenizer.pad_token_id,
            vision.image_size,
        )


def check_stage(job: TrainStage) -> CheckedStage:
    """Check the model, and that the output folder is new or holds this run.

    Raises:
        ConfigError: The model has another architecture, or the output holds another run.
    """
    model = _make_start_model(job) if job.model == NEW_DEMO else job.model
    folder, revision = locate_checkpoint(model)  # without the weights, which only the workers need
    config = _read_config(folder)
    blocks = config.vision_config.num_hidden_layers
    _refuse_missing_block(job.learning.vision_from, blocks, count_config_blocks(config))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    resolved = {
        "model_revision": revision or fingerprint(folder),
        "order_version": order.VERSION,
    }
    settings = identify_job(job, FREE_TO_CHANGE, resolved)
    model = storage.absolute(model) if Path(model).is_dir() else model
    _refuse_other_run(job.output, settings)
    return CheckedStage(job, model, config, tokenizer, settings)


def _refuse_missing_block(vision_from: int | None, blocks: int, used: int) -> None:
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
    """Make a new model of the demo's shape, once per run; returns its folder."""
    from s4v_core.demo.texts import PHRASES, build_corpus
    from s4v_core.model.builders import DEMO_BLOCKS, build_demo

    _refuse_missing_block(job.learning.vision_from, DEMO_BLOCKS, DEMO_BLOCKS - 1)
    folder = Path(storage.join(job.output, _START))
    if not folder.exists():
        build_demo(folder, job.seed, build_corpus(), PHRASES)
    return str(folder)


def _read_config(folder: Path) -> LlavaConfig:
    path = folder / "config.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("model_type") == "llava":
        return LlavaConfig.from_pretrained(folder)
    if "mm_vision_tower" in found:
        raise ConfigError(
            f"model: {folder} is in the original layout; convert it first: "
            "python ray_jobs/convert.py SRC DST"
        )
    kind = found.get("model_type", "no checkpoint")
    raise ConfigError(f"model: found {kind} in {folder}, allowed LLaVA-1.5 checkpoints (llava)")


def _refuse_other_run(output: str, settings: dict[str, Any]) -> None:
    uri = storage.join(output, RUN_NAME)
    if storage.stat(uri) is None:
        _refuse_foreign_files(output)
        return
    try:
        found = json.loads(storage.read(uri))["settings"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"output: {uri} is of no training run; choose another --output") from None
    refuse_other_settings(output, {"order_version": _FIRST_ORDER_VERSION} | found, settings)


def _refuse_foreign_files(output: str) -> None:
    """Refuse a folder with files of the names that a run would write, and no run."""
    for name in _WRITTEN:
        if storage.exists(storage.join(output, name)):
            raise ConfigError(
                f"output: {output} holds {name}, but no training run; choose another --output"
            )
