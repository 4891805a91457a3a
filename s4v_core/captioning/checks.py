"""Everything that a job names, checked before anything is written."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from s4v_core import storage
from s4v_core.captioning.comparison import check_comparable
from s4v_core.captioning.field_choice import choose_fields
from s4v_core.captioning.fields import CaptionField, find_main, list_columns
from s4v_core.captioning.gate_plugins import identify_plugins
from s4v_core.captioning.job import FREE_TO_CHANGE, CaptionJob
from s4v_core.captioning.scorer_choice import choose_scorer, identify_scorer
from s4v_core.engines.answer_schemas import check_answer_schema
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.flow.spec import Engines
from s4v_core.inputs.digest import digest_listing
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.shards import Shard
from s4v_core.model.checkpoint_facts import CheckpointFacts
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.records.plan import PlanHead, read_plan_head
from s4v_core.runs.engine_fit import (
    Fit,
    describe_fit,
    fill_in_units,
    fit_engine,
    fit_unit_size,
    limit_pictures,
)
from s4v_core.runs.identity import identify_job, refuse_other_settings
from s4v_core.runs.model_choice import choose_model_engine, read_model_facts
from s4v_core.runs.status import STATS_NAME

_COLUMN_TOKENS = 600
"""Room for the value of one column in a prompt, which is at most 2,000 characters."""


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A job whose model, engine and fields were checked: all that captioning an image takes.

    Attributes:
        scorer: Scores captions; None if the job names no model for it.
        plugins: The gate's plug-ins, each with a hash of its module.
        notes: What the preflight found, for people.
    """

    job: CaptionJob
    engine: EngineSpec
    facts: CheckpointFacts
    fields: tuple[CaptionField, ...]
    scorer: ScorerSpec | None
    plugins: dict[str, str | None]
    notes: tuple[str, ...]

    @property
    def unit_size(self) -> int:
        """Images of a unit: so many that their pictures fit into memory, UNIT_SIZE at most."""
        return self.job.unit_size or fit_unit_size(self.facts.framing.max_bytes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the input's tables that prompts or sources need."""
        named = list_columns(self.fields)
        named |= {self.job.source_column} if self.job.source_column else set()
        return tuple(sorted(named))

    @property
    def described_fields(self) -> list[dict[str, Any]]:
        """The fields in the settings of a plan; none if rows have the columns of every run."""
        is_plain = self.job.fields is None and self.job.json_schema is None
        return [] if is_plain else [field.describe() for field in self.fields]


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
        ConfigError: A model, engine, prompt, field or output that does not fit.
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
        "engine_settings": found.engine.answer_settings,
        "template": found.engine.template,
        "prompts": [asdict(prompt) for prompt in found.fields[find_main(found.fields)].prompts],
        "fields": found.described_fields,
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
        fields=found.fields,
        scorer=found.scorer,
        plugins=found.plugins,
        notes=found.notes,
        shards=shards,
        settings=settings,
        listing_digest=digest_listing(shards),
        head=head,
    )


def check_model(job: CaptionJob) -> CheckedModel:
    """Check a job's model, engine and fields.

    Raises:
        ConfigError: One of them does not fit.
    """
    facts = read_model_facts(job.engine, job.model, job.settings, job.revision)
    facts = replace(facts, framing=limit_pictures(facts.framing, job.pixels_max))
    engine = choose_model_engine(job.engine, job.model, job.settings, facts, job.template)
    fields = choose_fields(job)
    for schema in filter(None, (field.schema for field in fields)):
        check_answer_schema(engine.name, schema)
    if len(fields) > 1:
        engine = replace(engine, shares_images=True)
    scorer = choose_scorer(job.quality, engine.device)
    plugins = identify_plugins(job.gate.plugin) if job.gate.enabled else {}
    fit = _fit_fields(engine, facts, fields)
    notes = tuple(describe_fit(fit))
    found = CheckedModel(job, fit.engine, fit.facts, fields, scorer, plugins, notes)
    return replace(found, engine=fill_in_units(fit.engine, found.unit_size))


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
    refuse_other_settings(output, head.settings, _drop_unrecorded(settings, head.settings))
    return head


def _drop_unrecorded(settings: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Settings to compare with those of a run. An earlier version let a run change its number
    format, and did not record it."""
    if "engine_settings" in old:
        return settings
    kept = {name: v for name, v in settings["engine_settings"].items() if name != "dtype"}
    return settings | {"engine_settings": kept}


def _fit_fields(
    engine: EngineSpec, facts: CheckpointFacts, fields: tuple[CaptionField, ...]
) -> Fit:
    prompts = [prompt for field in fields for prompt in field.prompts]
    columns = max((len(prompt.columns) for prompt in prompts), default=0)
    return fit_engine(
        engine,
        facts,
        [prompt.text for prompt in prompts],
        answer_tokens=max(field.sampling.max_tokens for field in fields),
        spare_tokens=columns * _COLUMN_TOKENS,
    )
