"""Prepares a run: makes the table of samples once, and describes the run for its workers."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s4v_core import storage
from s4v_core.datasets.conversations import Unusable
from s4v_core.datasets.data_versions import find_changed, read_versions
from s4v_core.datasets.joining import join_images
from s4v_core.datasets.random_reads import watch_reads
from s4v_core.errors import ChangedInputError, ConfigError, InputError, S4VError
from s4v_core.training.checks import RUN_NAME, CheckedStage, has_begun
from s4v_core.training.data.image_versions import count_changed_files
from s4v_core.training.data.sample_parts import PartEncoder
from s4v_core.training.data.sample_writing import discard_parts, write_samples
from s4v_core.training.data.samples import SAMPLES_NAME, VERSION, SampleCounts, fetch_samples
from s4v_core.training.left_out import record_left_out
from s4v_core.training.preparation_bar import PreparationBar
from s4v_core.training.run_spec import RunSpec, build_order
from s4v_core.training.stage import TrainStage

_SAMPLES_HEAD = "samples.json"


def prepare_run(checked: CheckedStage) -> tuple[SampleCounts, RunSpec]:
    """Make the samples of a run unless they exist, and describe the run for its workers.

    Raises:
        InputError: No sample can be used, or too many cannot.
        ChangedInputError: The run has begun, and its data or images were changed since then.
        StorageError: The output refuses writes.
    """
    job = checked.job
    head = _read_head(job.output)
    begun = has_begun(job.output)
    if not begun:  # nothing depends on the settings of an earlier start yet
        storage.replace_json(storage.join(job.output, RUN_NAME), _describe_run(checked))
    if head and (reason := _find_change(checked, head)):
        if begun:
            raise reason
        head = None
    if not head:
        head = _make_samples(checked)
    counts = SampleCounts(head["samples"], head["skipped"])
    if not begun:
        _refuse_unusable(job, counts, ())
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
        framing=checked.family.build_framing(job, checked.config),
        shape=checked.family.read_shape(checked.config),
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


def _read_head(output: str) -> dict[str, Any] | None:
    uri = storage.join(output, _SAMPLES_HEAD)
    return None if storage.stat(uri) is None else dict(json.loads(storage.read(uri)))


def _find_change(checked: CheckedStage, head: dict[str, Any]) -> S4VError | None:
    """Why the table of samples is not the one that the job would make now; None if it is."""
    job = checked.job
    if head.get("version", 1) != VERSION:
        return ConfigError(
            f"output: the samples in {job.output} were prepared by another version of this "
            f"program (table {head.get('version', 1)}, now {VERSION}); choose another --output"
        )
    if head["made_from"] != _identify_samples(checked):
        return ConfigError(f"output: {job.output} holds the samples of other settings")
    if changed := find_changed(job.data, head["data"]):
        return ChangedInputError(
            "; ".join(changed),
            f"changed since the samples in {job.output} were prepared; restore the data to go on, "
            "or choose another --output to train on the new ones",
        )
    table = fetch_samples(storage.join(job.output, SAMPLES_NAME), head["sha256"])
    gone, compared, first = count_changed_files(table)
    if first and gone > job.max_missing_share * compared:
        return ChangedInputError(
            first,
            f"is gone or was replaced since the samples in {job.output} were prepared, like {gone} "
            f"of {compared} files of images that were compared, allowed "
            f"{job.max_missing_share:.1%} (--max-missing-share); restore them to go on, or choose "
            "another --output",
        )
    return None


def _identify_samples(checked: CheckedStage) -> dict[str, Any]:
    """The settings that the table of samples depends on."""
    job = checked.job
    made_from = {
        "data": list(job.data),
        "images": list(job.images),
        "image_root": job.image_root,
        "match_file_names": job.match_file_names,
        "template": job.template,
        "max_tokens": job.max_tokens,
        "image_mode": job.image_mode,
        "image_tokens": checked.collator.image_tokens,
        "model_revision": checked.settings["model_revision"],
        "version": VERSION,
    }
    return made_from


def _make_samples(checked: CheckedStage) -> dict[str, Any]:
    """Write the table of samples and, last, its head; returns the head."""
    job = checked.job
    made_from = _identify_samples(checked)
    storage.remove(storage.join(job.output, _SAMPLES_HEAD))
    versions = read_versions(job.data)
    encoder = PartEncoder(
        output=job.output,
        template=checked.template,
        encoder=checked.encoder,
        identity=json.dumps(made_from, sort_keys=True),
    )
    with PreparationBar(versions) as bar:
        samples = join_images(
            job.data, job.images, job.image_root, job.match_file_names, bar.show_read
        )
        written = write_samples(
            bar.count(watch_reads(samples)),
            encoder,
            job.prepare_workers,
            lambda counts, skipped: _refuse_unusable(job, counts, skipped),
            bar.advance,
        )
    head = asdict(written.counts) | {
        "sha256": written.sha256,
        "version": VERSION,
        "made_from": made_from,
        "data": versions,
    }
    storage.replace_json(storage.join(job.output, _SAMPLES_HEAD), head)
    discard_parts(job.output)
    return head


def _describe_run(checked: CheckedStage) -> dict[str, Any]:
    return {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job": checked.job.model_dump(),
        "settings": checked.settings,
    }


def _refuse_unusable(job: TrainStage, counts: SampleCounts, skipped: Sequence[Unusable]) -> None:
    """Refuse data without usable samples, or with too many unusable ones.

    Args:
        skipped: The unusable samples, of which the first is shown; may be empty.
    """
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.skipped.items()))
    if skipped:
        reasons += f"; the first is {_describe_unusable(skipped[0])}"
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


def _describe_unusable(one: Unusable) -> str:
    place = one.sample_id if one.record is None else f"record {one.record}"
    field = f", field {one.field}" if one.field else ""
    found = f": {one.found}" if one.found else ""
    return f"{place}{field}{found} ({one.reason})"


def _choose_device(job: TrainStage) -> str:
    if job.device != "auto":
        return job.device
    if job.accelerator:
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
