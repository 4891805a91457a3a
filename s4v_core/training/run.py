"""One training run from job to outcome: check everything, prepare the samples once, train, export.

Ray is started only where steps are missing.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlavaConfig

from s4v_core import chat, storage
from s4v_core.checkpoints import fingerprint, locate_checkpoint
from s4v_core.errors import ConfigError, InputError
from s4v_core.interrupts import drain_on_interrupt
from s4v_core.training.assignment import Run, order_of
from s4v_core.training.card import write_card
from s4v_core.training.data.collation import Collator
from s4v_core.training.data.samples import (
    SAMPLES_NAME,
    Prepared,
    local_samples,
    read_samples,
    write_samples,
)
from s4v_core.training.data.tokens import Encoder
from s4v_core.training.estimate.shapes import shape_of
from s4v_core.training.export import MODEL, export_model
from s4v_core.training.outcome import Outcome
from s4v_core.training.stage import FREE_TO_CHANGE, NEW_DEMO, TrainStage
from s4v_core.training.step_bar import StepBar
from s4v_core.training.worker.checkpoints import complete_checkpoints
from s4v_core.training.worker.desk import LoneDesk
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.seen import audit
from s4v_core.training.worker.step_metrics import StepMetrics, read_metrics
from s4v_core.training.worker.world import lone_world

RUN_NAME = "run.json"
SAMPLES_HEAD = "samples.json"
START = "start"
"""Folder of a new model below the output of its run."""


@dataclass(frozen=True, slots=True)
class CheckedStage:
    """A job whose model and output were looked at.

    Attributes:
        settings: All that changes a number of the run.
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
    """Look at the model and at what the output holds already.

    Raises:
        ConfigError: A model of another architecture, or the output of another run.
    """
    model = _start(job) if job.model == NEW_DEMO else job.model
    folder, revision = locate_checkpoint(model)  # the weights are for the workers
    config = _config(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    settings = job.model_dump(exclude={*FREE_TO_CHANGE, "output"})
    settings |= {"model_revision": revision or fingerprint(folder)}
    model = storage.absolute(model) if Path(model).is_dir() else model
    _refuse_other_run(job.output, settings)
    return CheckedStage(job, model, config, tokenizer, settings)


def run_stage(job: TrainStage) -> Outcome:
    """Train what is not trained yet, then export.

    Raises:
        ConfigError, InputError: Before anything is trained.
        StorageError, TrainingError: What is done stays done.
    """
    job = job.replace(output=storage.absolute(job.output))
    if job.demo_scenes:
        make_demo_world(job)
    checked = check_stage(job)
    prepared, run = prepare_run(checked)
    found = complete_checkpoints(job.output)
    done = found[-1].step if found else 0
    if done < run.steps:
        _train(run, done)
        found = complete_checkpoints(job.output)
    newest = found[-1] if found else None
    target = storage.join(job.output, MODEL)
    finished = newest is not None and newest.step == run.steps
    if finished and newest and not storage.exists(storage.join(target, "config.json")):
        folder, _ = locate_checkpoint(checked.model)
        card = write_card(job, read_metrics(job.output), prepared)
        export_model(job.output, newest, folder, job.image_mode == "pad", card)
    done = newest.step if newest else 0
    return Outcome(
        output=job.output,
        done=done,
        steps=run.steps,
        samples=prepared.samples,
        skipped=prepared.skipped,
        audit=audit(job.output, prepared.samples, run.order.steps_per_epoch, done),
        metrics=[m for m in read_metrics(job.output) if m.step <= done],
        model=target if finished else None,
    )


def prepare_run(checked: CheckedStage) -> tuple[Prepared, Run]:
    """The samples of a run, made unless they are there, and what its workers need to know.

    Raises:
        InputError: No sample can be used, or too many cannot.
        StorageError: The output refuses writes.
    """
    job = checked.job
    head_uri = storage.join(job.output, SAMPLES_HEAD)
    samples_uri = storage.join(job.output, SAMPLES_NAME)
    if storage.stat(head_uri) is None:
        storage.replace_json(storage.join(job.output, RUN_NAME), _about(checked))
        template = chat.find_template(job.template)
        samples = read_samples(job.data, job.images, job.image_root)
        with StepBar("preparing samples", None, unit="samples") as bar:
            made = write_samples(job.output, samples, template, checked.encoder, bar.advance)
        _refuse_too_few(job, made)
        digest = hashlib.sha256(storage.read(samples_uri)).hexdigest()
        storage.replace_json(head_uri, asdict(made) | {"sha256": digest})
    head = json.loads(storage.read(head_uri))
    prepared = Prepared(head["samples"], head["skipped"])
    order = order_of(job, local_samples(samples_uri, head["sha256"]))
    digest = hashlib.sha256(
        json.dumps([checked.settings, head["sha256"]], sort_keys=True).encode()
    ).hexdigest()
    steps = min(order.steps, job.max_steps or order.steps)
    run = Run(
        job=job.replace(device=_device(job)),
        output=job.output,
        digest=digest,
        model=checked.model,
        samples=samples_uri,
        samples_sha256=head["sha256"],
        collator=checked.collator,
        shape=shape_of(checked.config),
        order=order,
        steps=steps,
    )
    return prepared, run


def _train(run: Run, done: int) -> None:
    with StepBar(f"{run.job.stage}", run.steps, done) as bar:
        if run.job.workers:
            from s4v_core.training.cluster import train_on_ray

            train_on_ray(run, bar.step_done)
        else:
            _train_here(run, bar.step_done)


def _train_here(run: Run, on_step: Callable[[StepMetrics], None]) -> None:
    desk = LoneDesk(on_step)
    with (
        drain_on_interrupt(desk.ask_stop, "saving a checkpoint"),
        lone_world(run.job.device) as world,
    ):
        train(run, world, desk)


def _device(job: TrainStage) -> str:
    if job.device != "auto":
        return job.device
    if job.accelerator:
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _start(job: TrainStage) -> str:
    """A new model of the demo shape, made once per run."""
    from s4v_core.demo.texts import PHRASES, build_corpus
    from s4v_core.model.builders import build_demo

    folder = Path(storage.join(job.output, START))
    if not folder.exists():
        build_demo(folder, job.seed, build_corpus(), PHRASES)
    return str(folder)


def _config(folder: Path) -> LlavaConfig:
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
        return
    old = json.loads(storage.read(uri)).get("settings", {})
    for name, now in json.loads(json.dumps(settings)).items():
        if old.get(name) != now:
            raise ConfigError(
                f"output: {output} holds a run with {name} {old.get(name)!r}, found {now!r}; "
                "choose another --output, or the settings of that run"
            )


def _refuse_too_few(job: TrainStage, made: Prepared) -> None:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(made.skipped.items()))
    if not made.samples:
        raise InputError(", ".join(job.data), f"holds no sample to train on ({reasons or 'empty'})")
    if made.share_skipped > job.max_missing_share:
        raise InputError(
            ", ".join(job.data),
            f"{made.share_skipped:.1%} of the samples cannot be used ({reasons}), allowed "
            f"{job.max_missing_share:.1%}; {job.output}/skipped.jsonl lists them, "
            "--max-missing-share allows more",
        )


def _about(checked: CheckedStage) -> dict[str, Any]:
    return {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job": checked.job.model_dump(),
        "settings": checked.settings,
    }


def make_demo_world(job: TrainStage) -> None:
    """Draw what a demo recipe trains on, once."""
    from s4v_core.demo.scene_files import write_lessons

    folder = Path(job.images[0])
    if not folder.exists():
        write_lessons(folder, job.demo_scenes, seed=0)
