"""Everything that a job names, looked at before anything is written."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s4v_core import prompts, storage
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.prompt_file import read_prompts
from s4v_core.captioning.prompts import Prompt
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.requests import EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.images.policy import Framing
from s4v_core.inputs.shards import Shard, find_shards
from s4v_core.model.checkpoint_facts import OWN_SIZE_PX, CheckpointFacts, read_facts
from s4v_core.records import units
from s4v_core.records.plan import PlanHead, digest_listing, read_plan_head

FAKE_FRAMING = Framing("crop", 336)
"""What engine fake sees where no checkpoint says otherwise: ShareGPT4V-7B's size."""


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job whose inputs, model and output were looked at; the settings that a row depends on."""

    job: CaptionJob
    shards: list[Shard]
    engine: EngineSpec
    facts: CheckpointFacts
    prompts: tuple[Prompt, ...]
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
    # Workers may stand in another folder than the driver.
    model = storage.absolute(job.model) if Path(job.model).is_dir() else job.model
    engine = choose_engine(
        job.engine, model, job.template or facts.template, job.settings, facts.revision
    )
    asked = _prompts(job)
    columns = {name for prompt in asked for name in prompt.columns}
    columns |= {job.source_column} if job.source_column else set()
    shards = find_shards(job.input, job.image_root, tuple(sorted(columns)))
    settings = {
        "model": job.model,
        "model_revision": facts.revision,
        "engine": engine.name,
        "template": engine.template,
        "prompts": [asdict(prompt) for prompt in asked],
        "sources": list(job.sources),
        "source_column": job.source_column,
        "sampling": job.sampling.model_dump(),
        "gate": job.gate.model_dump(),
        "ladder": job.ladder.model_dump(),
        "captions_per_image": job.captions_per_image,
        "dedupe": job.dedupe,
        "decode": job.decode.model_dump(),
        "framing": f"{facts.framing.mode} {facts.framing.size_px}",
        "limit": job.limit,
    }
    if reason := storage.refusal(job.output):
        raise ConfigError(f"output: {job.output} cannot be listed ({reason})")
    head = read_plan_head(job.output)
    if head is not None:
        refuse_other_settings(job.output, head.settings, settings)
    elif units.done_units(job.output):
        raise ConfigError(
            f"output: {job.output} holds captions but no plan; choose another --output"
        )
    return CheckedJob(job, shards, engine, facts, asked, settings, digest_listing(shards), head)


def _facts(job: CaptionJob) -> CheckpointFacts:
    if job.engine == "fake" and not Path(job.model).is_dir():
        return CheckpointFacts(FAKE_FRAMING, "vicuna_v1", "none")
    if job.engine == "openai":
        return CheckpointFacts(Framing("fit", OWN_SIZE_PX), "model", job.settings.url or "")
    return read_facts(job.model)


def _prompts(job: CaptionJob) -> tuple[Prompt, ...]:
    return read_prompts(job.prompts) if job.prompts else (Prompt(job.prompt or prompts.CAPTION),)


def refuse_other_settings(output: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """An output belongs to one set of settings.

    Raises:
        ConfigError: One of the `new` ones differs; the sentence names it.
    """
    for name in new:
        # Through JSON, as the stored ones went.
        if (was := old.get(name)) != (now := json.loads(json.dumps(new[name]))):
            raise ConfigError(
                f"output: {output} was made with {name} {was!r}, found {now!r}; "
                "choose another --output, or the settings of that run"
            )
