"""Prepares a run: makes the table of samples once, and describes the run for its workers."""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s4v_core import chat, storage
from s4v_core.datasets.joining import join_images
from s4v_core.errors import InputError
from s4v_core.training.checks import RUN_NAME, CheckedStage
from s4v_core.training.data.samples import (
    SAMPLES_NAME,
    SampleCounts,
    fetch_samples,
    write_samples,
)
from s4v_core.training.estimate.shapes import read_shape
from s4v_core.training.left_out import record_left_out
from s4v_core.training.run_spec import RunSpec, build_order
from s4v_core.training.stage import TrainStage
from s4v_core.training.step_bar import StepBar

_SAMPLES_HEAD = "samples.json"


def prepare_run(checked: CheckedStage) -> tuple[SampleCounts, RunSpec]:
    """Make the samples of a run unless they exist, and describe the run for its workers.

    Raises:
        InputError: No sample can be used, or too many cannot.
        StorageError: The output refuses writes.
    """
    job = checked.job
    head_uri = storage.join(job.output, _SAMPLES_HEAD)
    if storage.stat(head_uri) is None:
        _make_samples(checked, head_uri)
    head = json.loads(storage.read(head_uri))
    counts = SampleCounts(head["samples"], head["skipped"])
    samples_uri = storage.join(job.output, SAMPLES_NAME)
    samples = fetch_samples(samples_uri, head["sha256"])
    order = build_order(job, samples)
    identity = json.dumps([checked.settings, head["sha256"]], sort_keys=True)
    spec = RunSpec(
        job=job.replace(device=_choose_device(job)),
        output=job.output,
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        model=checked.model,
        samples=samples_uri,
        samples_sha256=head["sha256"],
        collator=checked.collator,
        shape=read_shape(checked.config),
        order=order,
        steps=min(order.steps, job.max_steps or order.steps),
        left_out=record_left_out(job, samples),
    )
    return counts, spec


def make_demo_world(job: TrainStage) -> None:
    """Draw the scenes that a demo recipe trains on, once."""
    from s4v_core.demo.scene_files import write_lessons

    folder = Path(job.images[0])
    if not folder.exists():
        write_lessons(folder, job.demo_scenes, seed=0)


def _make_samples(checked: CheckedStage, head_uri: str) -> None:
    """Write run.json, the table of samples and, last, its head."""
    job = checked.job
    storage.replace_json(storage.join(job.output, RUN_NAME), _describe_run(checked))
    template = chat.find_template(job.template)
    samples = join_images(job.data, job.images, job.image_root, job.match_file_names)
    with StepBar("preparing samples", None, unit="samples") as bar:
        counts = write_samples(job.output, samples, template, checked.encoder, bar.advance)
    _refuse_unusable(job, counts)
    table = storage.read(storage.join(job.output, SAMPLES_NAME))
    sha256 = hashlib.sha256(table).hexdigest()
    storage.replace_json(head_uri, asdict(counts) | {"sha256": sha256})


def _describe_run(checked: CheckedStage) -> dict[str, Any]:
    return {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job": checked.job.model_dump(),
        "settings": checked.settings,
    }


def _refuse_unusable(job: TrainStage, counts: SampleCounts) -> None:
    """Refuse data without usable samples, or with too many unusable ones."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.skipped.items()))
    if not counts.samples:
        raise InputError(", ".join(job.data), f"holds no sample to train on ({reasons or 'empty'})")
    if counts.share_skipped > job.max_missing_share:
        raise InputError(
            ", ".join(job.data),
            f"{counts.share_skipped:.1%} of the samples cannot be used ({reasons}), allowed "
            f"{job.max_missing_share:.1%}; {job.output}/skipped.jsonl lists them, "
            "--max-missing-share allows more, and --match-file-names finds images whose folders "
            "have other names",
        )


def _choose_device(job: TrainStage) -> str:
    if job.device != "auto":
        return job.device
    if job.accelerator:
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
