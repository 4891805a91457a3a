"""Scores the captions of a finished run: a durable flow over the units of its plan."""

import json
from typing import Any

from s4v_core import storage
from s4v_core.captioning.quality import Quality
from s4v_core.captioning.report import write_report
from s4v_core.captioning.score_task import ScoreTask
from s4v_core.captioning.scorer_choice import choose_scorer, identify_scorer
from s4v_core.captioning.scores import place_score_settings, read_score_settings, score_units
from s4v_core.engines.choice import choose_idle_engine
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError, InputError
from s4v_core.flow.spec import Engines
from s4v_core.images.policy import DecodeConfig
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.records.plan import PlanHead, require_plan_head
from s4v_core.records.quality import QUALITY
from s4v_core.runs.counts import count_run
from s4v_core.runs.driver import Run, make_run_id, run_missing
from s4v_core.runs.identity import refuse_other_settings
from s4v_core.runs.outcome import Outcome
from s4v_core.runs.status import read_figures


def score_run(
    output: str, quality: Quality, engines: Engines | None = None, heal: bool = False
) -> Outcome:
    """Score every caption of a run that has no score in OUTPUT/quality yet, and write its report
    anew. The captions stay as they are.

    Args:
        engines: How many workers score, and on which GPUs. Default: one.
        heal: Do images without a score again.

    Raises:
        ConfigError: No CLIP or SigLIP is named, or the run was scored with another one.
        InputError: The folder holds no caption run, or one that is unfinished.
        StorageError, EngineError: A store or the scorer fails as a whole; what is done stays done.
    """
    output = storage.absolute(output)
    head = _check_run(output)
    engine = choose_idle_engine(EngineSettings(device=quality.device))
    scorer = choose_scorer(quality, engine.device)
    if scorer is None or quality.model is None:
        raise ConfigError("model: found none; name a CLIP or SigLIP checkpoint")
    identity = identify_scorer(scorer, quality.model) or {}
    _keep_settings(output, identity)
    task = ScoreTask(
        output=output,
        scorer=scorer,
        model=quality.model,
        reading=make_run_id(),
        decode=DecodeConfig(**head.settings.get("decode", {})),
    )
    run = Run(
        output=output,
        head=head,
        contract=QUALITY,
        make_task=lambda: task,
        engine=engine,
        engines=engines or Engines(1),
        label="scoring",
        heal=heal,
        about={"quality": identity},
        notes_folder=storage.join(output, QUALITY.folder),
    )
    outcome = run_missing(run)
    figures = read_figures(output)
    if outcome.has_run and figures:
        write_report(output, head, count_run(caption_units(output), head), figures)
    return outcome


def _check_run(output: str) -> PlanHead:
    head = require_plan_head(output)
    if head.kind != CAPTIONS.folder:
        raise InputError(output, f"holds a run of {head.kind}, not of captions")
    missing = set(head.units) - caption_units(output).list_done()
    if missing:
        raise InputError(output, f"has {len(missing)} units without captions; finish the run first")
    return head


def _keep_settings(output: str, identity: dict[str, Any]) -> None:
    """Write down what makes the scores, or compare it with what made those that are there."""
    storage.create(place_score_settings(output), json.dumps(identity, indent=2).encode())
    refuse_other_settings(score_units(output).folder, read_score_settings(output) or {}, identity)
