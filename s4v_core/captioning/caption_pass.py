"""One caption pass from job to outcome: check everything, plan once, run what is missing, report.

Nothing is written before all checks are through.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from s4v_core import storage
from s4v_core.captioning.checks import CheckedJob, CheckedModel, check_job
from s4v_core.captioning.data_card import parse_licences, write_data_card
from s4v_core.captioning.forecast_file import read_forecast
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.planning import plan_input
from s4v_core.captioning.report import REPORT_NAME, write_report
from s4v_core.captioning.review import Reviewer
from s4v_core.captioning.task import CaptionTask
from s4v_core.demo.scene_files import write_scenes
from s4v_core.demo.score import Score, score_captions
from s4v_core.records.captions import caption_contract, caption_units, contract_of
from s4v_core.records.plan import PlanHead, read_plan_head
from s4v_core.records.planned_rows import read_planned_unit
from s4v_core.runs.driver import Run, connect_for, run_missing
from s4v_core.runs.outcome import Outcome
from s4v_core.runs.status import read_figures

if TYPE_CHECKING:  # imports ray
    from s4v_core.captioning.twin_registry import TwinRegistry

DEMO_NOTICE = "A demo: the captioner knows drawn scenes and nothing else."

_INPUT_CHANGED = "the input is no longer what was planned (files came, went or changed); "
_LIMITED = "captions are those of the plan, because it holds only the first images (--limit)"
_RIVAL = "another run planned it meanwhile; the same command again captions what is new"


def run_pass(job: CaptionJob, on_checked: Callable[[CheckedJob], None] | None = None) -> Outcome:
    """Caption what the plan lists and no file holds yet.

    Args:
        on_checked: Called once everything is checked, before anything is written.

    Raises:
        ConfigError, InputError: Before anything is written.
        StorageError, EngineError: A store or engine fails as a whole; what is done stays done.
    """
    if job.demo_scenes:
        _draw_demo_scenes(job)
    job = job.replace(output=storage.absolute(job.output))
    checked = check_job(job)
    if on_checked:
        on_checked(checked)
    if checked.head is None and checked.engine.is_spread:
        # A run that its cluster cannot hold would leave a plan that no other settings may use.
        connect_for(checked.engine, checked.engines)
    run = plan_run(checked, plan_input(checked), job.output)
    has_grown = checked.head is not None and len(run.head.parts) > len(checked.head.parts)
    outcome = run_missing(run, read_forecast(job.output))
    is_new = outcome.has_run or has_grown
    return write_pages(job, run.head, outcome, is_new, DEMO_NOTICE if job.demo_scenes else "")


def write_pages(
    job: CaptionJob, head: PlanHead, outcome: Outcome, is_new: bool, notice: str = ""
) -> Outcome:
    """Write the report and the data card of a run; the outcome then names them.

    Args:
        is_new: Whether rows have come since they were written.
        notice: Sentence at the top of the report.
    """
    report: str | None = storage.join(job.output, REPORT_NAME)
    if is_new or storage.stat(storage.join(job.output, REPORT_NAME)) is None:
        figures = read_figures(job.output) or outcome.as_dict()
        report = write_report(job.output, head, outcome.counts, figures, notice)
        write_data_card(job.output, head, outcome.counts, parse_licences(job.licences))
    pages = (("report", report),) if report else ()
    return replace(outcome, files=(*outcome.files, *pages))


def plan_run(checked: CheckedJob, head: PlanHead, output: str) -> Run:
    """The run of a planned caption job."""
    is_changed = checked.listing_digest != head.listing_digest
    return Run(
        output=output,
        head=head,
        contract=contract_of(head.settings),
        make_task=partial(_make_task_on_ray, checked),
        engine=checked.engine,
        engines=checked.engines,
        label="captioning",
        heal=checked.job.retry_errors,
        about={"job": checked.job.model_dump()},
        notes=(_INPUT_CHANGED + (_LIMITED if checked.job.limit else _RIVAL),) if is_changed else (),
    )


def _make_task_on_ray(checked: CheckedJob) -> CaptionTask:
    """The task of a caption job on a Ray that runs."""
    if checked.job.dedupe == "off":
        return make_task(checked)
    from s4v_core.captioning.twin_registry import TwinRegistry

    return make_task(checked, TwinRegistry())


def make_task(checked: CheckedModel, twins: "TwinRegistry | None" = None) -> CaptionTask:
    """The task of a caption job.

    Args:
        twins: Where equal images find each other; None captions each of them.
    """
    job, settings = checked.job, checked.engine.answer_settings
    return CaptionTask(
        model=job.model,
        model_revision=checked.facts.revision,
        engine_name=checked.engine.name,
        engine_settings=json.dumps(settings, sort_keys=True) if settings else None,
        fields=checked.fields,
        decode=job.decode,
        web=job.web,
        framing=checked.facts.framing,
        captions_per_image=job.captions_per_image,
        dedupe=job.dedupe,
        reviewer=Reviewer(
            checked.scorer,
            job.gate.min_quality if job.gate.enabled else None,
            tuple(checked.plugins),
        ),
        twins=twins,
        contract=caption_contract(checked.described_fields),
    )


def score_demo(output: str) -> Score:
    """Compare captions of drawn scenes with what was drawn, which lies beside each image."""
    head = read_plan_head(output)
    assert head is not None, "a run that is done has a plan"
    units, pairs = caption_units(output, head.settings), list[tuple[str, str]]()
    for unit in sorted(units.list_done()):
        planned = read_planned_unit(output, unit).to_pylist()
        drawn = {row["image_id"]: row["payload"] for row in planned}
        rows = units.read(unit).to_pylist()
        pairs += [(drawn[row["image_id"]] or "", row["caption"] or "") for row in rows]
    return score_captions(pairs)


def _draw_demo_scenes(job: CaptionJob) -> None:
    scenes = Path(job.input[0])
    if not scenes.exists():
        write_scenes(scenes, job.demo_scenes)
