"""The fields that a job asks for: those of its file, or the one caption of its flags."""

from s4v_core import prompts
from s4v_core.captioning.field_file import read_fields
from s4v_core.captioning.fields import CaptionField, build_field
from s4v_core.captioning.finishing import Finish
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.prompt_file import read_prompts
from s4v_core.captioning.prompts import Prompt
from s4v_core.captioning.schema_file import read_schema
from s4v_core.records.captions import MAIN_FIELD


def choose_fields(
    job: CaptionJob, prompts: tuple[Prompt, ...] | None = None
) -> tuple[CaptionField, ...]:
    """The fields of a job, in the order in which they are asked.

    Args:
        prompts: Take the place of the job's own.

    Raises:
        ConfigError: A file of fields, prompts or a schema that cannot be used.
    """
    if job.fields is not None:
        return read_fields(job.fields, job.sampling, job.gate, job.ladder)
    schema = None if job.json_schema is None else read_schema(job.json_schema)
    finish = Finish(job.prepend, job.append, job.cut_prefix_words, schema is not None)
    caption = build_field(
        MAIN_FIELD,
        _choose_prompts(job) if prompts is None else prompts,
        job.sampling,
        job.gate,
        job.ladder,
        schema=schema,
        prefill=job.prefill,
        finish=finish,
    )
    return (caption,)


def _choose_prompts(job: CaptionJob) -> tuple[Prompt, ...]:
    if job.prompts is not None:
        return read_prompts(job.prompts)
    if job.prompt_name is not None:
        return (Prompt(prompts.find_prompt(job.prompt_name).text),)
    return (Prompt(job.prompt if job.prompt is not None else prompts.CAPTION),)
