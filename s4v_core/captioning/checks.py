"""Everything that a job names, checked before anything is written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from s4v_core import storage
from s4v_core.captioning.comparison import check_comparable
from s4v_core.captioning.field_choice import choose_fields
from s4v_core.captioning.fields import CaptionField, find_main, list_columns
from s4v_core.captioning.gate_plugins import identify_plugins
from s4v_core.captioning.job import FREE_TO_CHANGE, CaptionJob
from s4v_core.captioning.preflight_check import Fit, describe_fit, fit_engine, limit_pictures
from s4v_core.captioning.prompts import Prompt
from s4v_core.captioning.scorer_choice import choose_scorer, identify_scorer
from s4v_core.engines.answer_schemas import check_answer_schema
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.fitness import refuse_unfit_checkpoint
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.flow.spec import UNITS_IN_FLIGHT, Engines
from s4v_core.images.policy import Framing
from s4v_core.inputs.digest import digest_listing
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.shards import Shard
from s4v_core.model.checkpoint_facts import FAKE_FACTS, CheckpointFacts, read_facts
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.records.plan import PlanHead, read_plan_head
from s4v_core.records.schemas import UNIT_SIZE
from s4v_core.runs.identity import identify_job, refuse_other_settings
from s4v_core.runs.status import STATS_NAME

_UNIT_BYTES = 2 << 30
"""Bytes that the pictures of one unit may take in a worker's memory and in the object store."""

_MOST_UNITS_IN_FLIGHT = 8

_ENDPOINT_PX = 1344
"""Longest side of pictures that are sent to an endpoint, about the most that models there use."""


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
        """Images of a unit: so many that their pictures fit into _UNIT_BYTES, UNIT_SIZE at most."""
        fitting = max(_UNIT_BYTES // self.facts.framing.max_bytes, 1)
        return self.job.unit_size or min(fitting, UNIT_SIZE)

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


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model behind an endpoint that is asked by data-specific prompts.

    Attributes:
        prompts: Take the place of the job's own.
        framing: The pictures that it uses.
        identity: Further settings that identify the run.
    """

    prompts: tuple[Prompt, ...]
    framing: Framing
    identity: Mapping[str, Any]

    @property
    def facts(self) -> CheckpointFacts:
        # The address is no revision here: the same teacher may be reached at several of them.
        return CheckpointFacts(self.framing, "model", "")


def check_job(job: CaptionJob, teacher: Teacher | None = None) -> CheckedJob:
    """Check everything that a job names, and write nothing.

    Raises:
        ConfigError: A model, engine, prompt, field or output that does not fit.
        InputError: An input that is not there or holds no images.
    """
    found = check_model(job, teacher)
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
        "framing": found.facts.framing.description,
    }
    resolved["quality"] = identify_scorer(found.scorer, job.quality.model)
    resolved["gate_plugins"] = found.plugins
    settings = identify_job(
        job, FREE_TO_CHANGE, resolved | dict(teacher.identity if teacher else {})
    )
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


def check_model(job: CaptionJob, teacher: Teacher | None = None) -> CheckedModel:
    """Check a job's model, engine and fields.

    Raises:
        ConfigError: One of them does not fit.
    """
    facts = teacher.facts if teacher else _read_facts(job)
    facts = replace(facts, framing=limit_pictures(facts.framing, job.pixels_max))
    # Workers may run in another folder than the driver.
    model = storage.absolute(job.model) if Path(job.model).is_dir() else job.model
    template = job.template or facts.template
    engine = choose_engine(job.engine, model, template, job.settings, facts.revision)
    refuse_unfit_checkpoint(engine.name, job.model, facts.quantization)
    fields = choose_fields(job, teacher.prompts if teacher else None)
    for schema in filter(None, (field.schema for field in fields)):
        check_answer_schema(engine.name, schema)
    if len(fields) > 1:
        engine = replace(engine, shares_images=True)
    scorer = choose_scorer(job.quality, engine.device)
    plugins = identify_plugins(job.gate.plugin) if job.gate.enabled else {}
    fit: Fit = fit_engine(engine, facts, fields)
    notes = tuple(describe_fit(fit))
    found = CheckedModel(job, fit.engine, fit.facts, fields, scorer, plugins, notes)
    settings = fit.engine.settings
    if settings.units_in_flight is None:
        wanted = -(-UNITS_IN_FLIGHT * UNIT_SIZE // found.unit_size)
        settings = settings.replace(units_in_flight=min(wanted, _MOST_UNITS_IN_FLIGHT))
    return replace(found, engine=replace(fit.engine, settings=settings))


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


def _read_facts(job: CaptionJob) -> CheckpointFacts:
    if job.engine == "fake" and not Path(job.model).is_dir():
        return FAKE_FACTS
    if job.engine == "openai":
        return CheckpointFacts(Framing("fit", _ENDPOINT_PX), "model", job.settings.url or "")
    return read_facts(job.model, job.revision)
