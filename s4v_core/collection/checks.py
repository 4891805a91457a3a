"""Everything that a collection names, checked before anything is written."""

from dataclasses import asdict, dataclass
from typing import Any

from s4v_core.captioning.checks import CheckedJob, Teacher, check_job
from s4v_core.captioning.job import CaptionJob
from s4v_core.collection.job import CollectJob
from s4v_core.collection.prompts import TeacherPrompt, compose_prompts
from s4v_core.engines.settings import EngineSettings
from s4v_core.flow.budget import Limits
from s4v_core.images.policy import Framing
from s4v_core.records.captions import COLLECTION

_SAME = (
    *("image_root", "sources", "source_column", "limit", "unit_size", "retry_errors"),
    *("licences", "sampling", "gate", "ladder", "decode", "web"),
)
"""Settings that mean the same in a caption pass."""

_SPARE_S = 60.0
"""Seconds beyond its deadline after which a request without an end belongs to a dead worker."""


@dataclass(frozen=True, slots=True)
class CheckedCollection:
    """A collection whose input, output, prompts and endpoints were checked.

    Attributes:
        checked: The caption pass that it is.
    """

    job: CollectJob
    checked: CheckedJob
    prompts: tuple[TeacherPrompt, ...]
    limits: Limits


def check_collection(job: CollectJob) -> CheckedCollection:
    """Check everything that a job names, and write nothing.

    Raises:
        ConfigError: A setting or output that does not fit.
        InputError: An input that is not there or holds no images.
    """
    others = None if job.other_sources == "none" else job.other_sources
    prompts = compose_prompts(job.aesthetic_share, job.unnamed, others)
    framing = Framing("fit", job.picture_long, min(job.picture_short, job.picture_long))
    teacher = Teacher(
        tuple(prompt.prompt for prompt in prompts), framing, {COLLECTION: _identify(prompts)}
    )
    return CheckedCollection(job, check_job(_make_pass(job), teacher), prompts, _limit(job))


def _identify(prompts: tuple[TeacherPrompt, ...]) -> dict[str, Any]:
    """The settings that identify a collection beyond what identifies a caption pass."""
    return {"prompts": [asdict(prompt) | {"parts": list(prompt.parts)} for prompt in prompts]}


def _make_pass(job: CollectJob) -> CaptionJob:
    """The caption pass by a model behind endpoints that a collection is."""
    endpoint = job.endpoint
    # Rows of several units are asked at once, so that the endpoints are never short of requests.
    under_way = endpoint.concurrency * len(endpoint.url)
    first, _, variable = endpoint.url[0].rpartition("=")
    has_variable = bool(first) and variable.isidentifier()
    settings = EngineSettings(
        url=first if has_variable else endpoint.url[0],
        key_variable=variable if has_variable else "OPENAI_API_KEY",
        more_endpoints=endpoint.url[1:],
        upload=endpoint.upload,
        picture_detail=endpoint.detail,
        max_concurrent_requests=endpoint.concurrency,
        request_timeout_s=endpoint.timeout_s,
        endpoint_patience_s=endpoint.patience_s,
        units_in_flight=-(-under_way // job.unit_size) + 1,
        cpus=1,
    )
    return CaptionJob(
        input=job.input,
        output=job.output,
        model=job.model,
        engine="openai",
        engines=job.workers,
        settings=settings,
        **{name: getattr(job, name) for name in _SAME},
    )


def _limit(job: CollectJob) -> Limits:
    budget = job.budget
    share = job.batch.price_share if job.batch.enabled else 1.0
    return Limits(
        requests_per_minute=budget.requests_per_minute,
        tokens_per_minute=budget.tokens_per_minute,
        spending=None if budget.spending is None else round(budget.spending * 1e6),
        input_price=(budget.input_price or 0.0) * share,
        output_price=(budget.output_price or 0.0) * share,
        # A request may wait as long as its endpoint asks it to, and then its own deadline.
        lease_s=job.endpoint.timeout_s + job.endpoint.patience_s + _SPARE_S,
    )
