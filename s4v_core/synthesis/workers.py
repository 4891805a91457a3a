"""The engines of a synthesis: its writer and its painter."""

from s4v_core.chat import PLAIN
from s4v_core.engines.choice import choose_engine, choose_painter
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.flow.spec import Engines
from s4v_core.synthesis.job import SCRIPTED, SynthesisJob
from s4v_core.synthesis.text_stages import Writer

_WRITER = "python:s4v_core.synthesis.scripted:write"
_PAINTER = "python:s4v_core.synthesis.scripted:paint"
_FUNCTION = "python:"


def count_engines(job: SynthesisJob) -> Engines:
    return Engines(job.workers, job.accelerator)


def choose_writer(job: SynthesisJob) -> Writer:
    """The writer of a job, and how it is asked.

    Raises:
        ConfigError: It cannot run here, or knows nothing of what is asked for.
    """
    if job.writer == SCRIPTED and not job.demo_world:
        raise ConfigError(
            "writer: found scripted, which knows drawn scenes alone; name a model, or an endpoint "
            "as URL#NAME, with --writer"
        )
    return Writer(
        name=job.writer,
        engine=_choose_writer_engine(job),
        samplings=job.ladder.samplings(job.sampling),
        style=job.writer_format,
        engines=count_engines(job),
        unit_size=job.unit_size,
    )


def _choose_writer_engine(job: SynthesisJob) -> EngineSpec:
    if job.writer == SCRIPTED or job.writer.startswith(_FUNCTION):
        model = _WRITER if job.writer == SCRIPTED else job.writer
        return choose_engine("fake", model, "model", job.settings)
    url, _, name = job.writer.partition("#")
    if name:
        settings = job.settings.replace(url=url)
        return choose_engine("openai", name, "model", settings)
    # A text that is only continued needs no chat template, and base models have none.
    template = PLAIN.name if job.writer_format == "completion" else "model"
    return choose_engine(job.writer_engine, job.writer, template, job.settings)


def choose_job_painter(job: SynthesisJob) -> EngineSpec:
    """The engine that draws.

    Raises:
        ConfigError: It cannot run here.
    """
    if job.painter == SCRIPTED or job.painter.startswith(_FUNCTION):
        model = _PAINTER if job.painter == SCRIPTED else job.painter
        return choose_engine("fake", model, "model", job.settings)
    return choose_painter(job.painter, job.painting, job.settings)
