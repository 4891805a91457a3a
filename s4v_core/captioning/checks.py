"""Everything that a job names, checked before anything is written."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s4v_core import prompts, storage
from s4v_core.captioning.comparison import check_comparable
from s4v_core.captioning.gate_plugins import identify_plugins
from s4v_core.captioning.job import FREE_TO_CHANGE, CaptionJob
from s4v_core.captioning.prompt_file import read_prompts
from s4v_core.captioning.prompts import Prompt
from s4v_core.captioning.scorer_choice import choose_scorer, identify_scorer
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.flow.spec import Engines
from s4v_core.images.policy import Framing
from s4v_core.inputs.digest import digest_listing
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.shards import Shard
from s4v_core.model.checkpoint_facts import FAKE_FACTS, OWN_SIZE_PX, CheckpointFacts, read_facts
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.records.plan import PlanHead, read_plan_head
from s4v_core.runs.identity import identify_job, refuse_other_settings
from s4v_core.runs.status import STATS_NAME


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A job whose model, engine and prompts were checked: all that captioning an image takes.

    Attributes:
        scorer: Scores captions; None if the job names no model for it.
        plugins: The gate's plug-ins, each with a hash of its module.
    """

    job: CaptionJob
    engine: EngineSpec
    facts: CheckpointFacts
    prompts: tuple[Prompt, ...]
    scorer: ScorerSpec | None
    plugins: dict[str, str | None]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the input's tables that prompts or sources need."""
        named = {name for prompt in self.prompts for name in prompt.columns}
        named |= {self.job.source_column} if self.job.source_column else set()
        return tuple(sorted(named))


@dataclass(frozen=True, slots=True)
class CheckedJob(CheckedModel):
    """A job whose inputs and output were checked, too.

    Attributes:
        settings: What a row depends on, and so what identifies the run.
        head: The plan that the output holds already.
    """

    shards: list[Shard]
    settings: dict[str, Any]
    listing_digest: str
    head: PlanHead | None

    @property
    def engines(self) -> Engines:
        return Engines(self.job.engines, self.job.accelerator)


def check_job(job: CaptionJob) -> CheckedJob:
    """Check everything that a job names, and write nothing.

    Raises:
        ConfigError: A model, engine, prompt or output that does not fit.
        InputError: An input that is not there or holds no images.
    """
    found = check_model(job)
    if job.compare_with:
        check_comparable(job.compare_with)
    shards = find_shards(
        job.input, job.image_root, found.columns, job.image_column, job.only_missing
    )
    resolved: dict[str, Any] = {
        "model_revision": found.facts.revision,
        "engine": found.engine.name,
        "template": found.engine.template,
        "prompts": [asdict(prompt) for prompt in found.prompts],
        "framing": f"{found.facts.framing.mode} {found.facts.framing.size_px}",
    }
    resolved["quality"] = identify_scorer(found.scorer, job.quality.model)
    resolved["gate_plugins"] = found.plugins
    settings = identify_job(job, FREE_TO_CHANGE, resolved)
    head = _check_output(job.output, settings)
    return CheckedJob(
        job=job,
        engine=found.engine,
        facts=found.facts,
        prompts=found.prompts,
        scorer=found.scorer,
        plugins=found.plugins,
        shards=shards,
        settings=settings,
        listing_digest=digest_listing(shards),
        head=head,
    )


def check_model(job: CaptionJob) -> CheckedModel:
    """Check a job's model, engine and prompts.

    Raises:
        ConfigError: One of them does not fit.
    """
    facts = _read_facts(job)
    # Workers may run in another folder than the driver.
    model = storage.absolute(job.model) if Path(job.model).is_dir() else job.model
    template = job.template or facts.template
    engine = choose_engine(job.engine, model, template, job.settings, facts.revision)
    scorer = choose_scorer(job.quality, engine.device)
    plugins = identify_plugins(job.gate.plugin) if job.gate.enabled else {}
    return CheckedModel(job, engine, facts, _read_prompts(job), scorer, plugins)


def _check_output(output: str, settings: dict[str, Any]) -> PlanHead | None:
    try:
        reason = storage.refusal(output)
    except storage.PlaceError as error:
        reason = error.problem
    if reason:
        raise ConfigError(f"output: {output} cannot be listed ({reason})")
    head = read_plan_head(output)
    if head is None:
        if caption_units(output).list_done():
            raise ConfigError(
                f"output: {output} holds captions but no plan; choose another --output"
            )
        for name in ("run.json", STATS_NAME):
            is_there = storage.stat(storage.join(output, name)) is not None
            if is_there and read_plan_head(output) is None:  # another run may have just begun
                raise ConfigError(
                    f"output: {output} holds no run but a {name}, which a run would replace; "
                    "choose another --output"
                )
        return None
    if head.kind != CAPTIONS.folder:
        raise ConfigError(f"output: {output} holds a run of {head.kind}; choose another --output")
    refuse_other_settings(output, head.settings, settings)
    return head


def _read_facts(job: CaptionJob) -> CheckpointFacts:
    if job.engine == "fake" and not Path(job.model).is_dir():
        return FAKE_FACTS
    if job.engine == "openai":
        return CheckpointFacts(Framing("fit", OWN_SIZE_PX), "model", job.settings.url or "")
    return read_facts(job.model)


def _read_prompts(job: CaptionJob) -> tuple[Prompt, ...]:
    return read_prompts(job.prompts) if job.prompts else (Prompt(job.prompt or prompts.CAPTION),)
