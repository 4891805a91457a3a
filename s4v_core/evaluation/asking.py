"""From a job to a run: which questions are asked, of which model, with which pictures."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from s4v_core.engines.endpoint_models import find_only_model
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.evaluation.answer_task import AnswerTask, Asked
from s4v_core.evaluation.benchmark import Benchmark, Generation, Question
from s4v_core.evaluation.catalogue import find_benchmark
from s4v_core.evaluation.data_places import find_data, place_images
from s4v_core.evaluation.job import FREE_TO_CHANGE, EvalJob, ImageMode
from s4v_core.evaluation.scoring import read_questions
from s4v_core.flow.spec import Engines
from s4v_core.images.policy import Framing
from s4v_core.model.checkpoint_facts import CheckpointFacts
from s4v_core.runs.driver import Run
from s4v_core.runs.engine_fit import describe_fit, fill_in_units, fit_engine, fit_unit_size
from s4v_core.runs.identity import identify_job
from s4v_core.runs.model_choice import choose_model_engine, read_model_facts
from s4v_core.runs.table_run import plan_rows

_UNIT_SIZE = 64
"""Questions of a unit: answers are short, and an interrupted run asks the units in flight again."""

_ENDPOINT_SQUARE_PX = 336
"""Side of the squares that an endpoint gets if --image-mode asks for squares: LLaVA-1.5's."""

_SYSTEMS = {
    "share4v_v1": "A chat between a curious human and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the human's questions."
}
"""Texts at the beginning, of templates that differ from vicuna_v1 in nothing else."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of one benchmark that a model is asked.

    Attributes:
        data: Folder or file that they come from.
        left_out: Number of questions that are not asked: about videos, or beyond --limit.
    """

    benchmark: Benchmark
    data: str
    questions: list[Question]
    left_out: int


@dataclass(frozen=True, slots=True)
class CheckedEvaluation:
    """A job whose questions and model were checked. Nothing is written yet.

    Attributes:
        model: Name or place of the model, as rows record it.
        notes: What the preflight found, for people.
    """

    job: EvalJob
    sets: tuple[QuestionSet, ...]
    engine: EngineSpec
    facts: CheckpointFacts
    model: str
    notes: tuple[str, ...]

    @property
    def unit_size(self) -> int:
        return self.job.unit_size or fit_unit_size(self.largest_framing.max_bytes, _UNIT_SIZE)

    @property
    def engines(self) -> Engines:
        return Engines(self.job.engines, self.job.accelerator)

    @property
    def largest_framing(self) -> Framing:
        framings = (self.choose_framing(one.benchmark.generation) for one in self.sets)
        return max(framings, key=lambda framing: framing.max_bytes)

    def choose_framing(self, generation: Generation) -> Framing:
        """How the images of a benchmark become pictures."""
        return choose_framing(self.job.image_mode, self.facts.framing, generation)

    def describe(self) -> dict[str, Any]:
        """How the model was asked, as a score is read with it."""
        return {
            "model": self.model,
            "model_revision": self.facts.revision,
            "engine": self.engine.name,
            "engine_settings": self.engine.answer_settings,
            "template": self.engine.template,
            "image_mode": self.job.image_mode,
            "decoding": "greedy",
            "max_tokens": self.job.max_tokens,
            "limit": self.job.limit,
        }


def check_evaluation(job: EvalJob) -> CheckedEvaluation:
    """Read the questions and check the model; writes nothing.

    Raises:
        ConfigError: A benchmark, model, engine or setting that does not fit.
        InputError: The files of a benchmark are missing, cut off or others.
    """
    sets = tuple(read_set(job, name) for name in job.names)
    url = job.endpoint or job.settings.url
    name = "openai" if job.endpoint else job.engine
    settings = job.settings.replace(url=url)
    model = job.model or find_only_model(url or "")
    facts = read_model_facts(name, model, settings, job.revision)
    for one in sets:
        choose_framing(job.image_mode, facts.framing, one.benchmark.generation)
    engine = choose_model_engine(name, model, settings, facts, job.template)
    prompts = [question.prompt for one in sets for question in one.questions]
    longest = max(_choose_length(job, one) for one in sets)
    fit = fit_engine(engine, facts, prompts, longest, length_flag="--max-tokens")
    found = CheckedEvaluation(job, sets, fit.engine, fit.facts, model, tuple(describe_fit(fit)))
    return replace(found, engine=fill_in_units(fit.engine, found.unit_size))


def read_set(job: EvalJob, name: str) -> QuestionSet:
    """The questions of one benchmark.

    Raises:
        ConfigError, InputError: There is no such benchmark, or its files do not fit.
    """
    benchmark = find_benchmark(name)
    data = find_data(job.data, benchmark, is_only=len(job.names) == 1)
    questions = read_questions(benchmark, data)
    asked = [one for one in questions if benchmark.is_asked(one)][: job.limit]
    return QuestionSet(benchmark, data, asked, len(questions) - len(asked))


def _choose_length(job: EvalJob, one: QuestionSet) -> int:
    """Tokens of the longest answer to a benchmark's questions."""
    most = one.benchmark.generation.max_tokens
    return min(most, job.max_tokens or most)


def choose_framing(mode: ImageMode, own: Framing, generation: Generation) -> Framing:
    """How an image becomes a picture.

    Args:
        own: What the checkpoint does by itself.

    Raises:
        ConfigError: The model takes whole pictures, which are not made square.
    """
    if mode == "model":
        return own
    if own.mode == "area":
        if mode == "paper":
            return own
        problem = "this model takes whole pictures; allowed model and paper"
        raise ConfigError(f"image_mode: found {mode}, but {problem}")
    # Nothing is known of a model behind an endpoint.
    size_px = _ENDPOINT_SQUARE_PX if own.mode == "fit" else own.size_px
    return Framing(generation.image_mode if mode == "paper" else mode, size_px)


def list_asked(checked: CheckedEvaluation, one: QuestionSet) -> list[Asked]:
    """The questions of a benchmark with all that asking them takes."""
    generation = one.benchmark.generation
    sampling = SamplingConfig(max_tokens=_choose_length(checked.job, one), stop_at_loops=False)
    framing = checked.choose_framing(generation)
    is_vicuna = checked.engine.template == "vicuna_v1"
    system = _SYSTEMS.get(generation.template) if is_vicuna else None
    return [
        Asked(one.benchmark.name, question.key, question.prompt, framing, sampling, system)
        for question in one.questions
    ]


def list_rows(checked: CheckedEvaluation) -> list[dict[str, Any]]:
    """A planned row for each question; images that data files hold in themselves are written below
    the output."""
    job = checked.job
    rows: list[dict[str, Any]] = []
    for one in checked.sets:
        places = place_images(one.benchmark, one.questions, one.data, job.images, job.output)
        rows += [
            {
                "answer_id": asked.answer_id,
                "payload": asked.dump(),
                "source": asked.benchmark,
                **place.as_columns(),
            }
            for asked, place in zip(list_asked(checked, one), places, strict=True)
        ]
    return rows


def plan_evaluation(
    checked: CheckedEvaluation, rows: Iterable[dict[str, Any]], output: str, unit_size: int
) -> Run:
    """The run that asks the questions of planned rows.

    Raises:
        ConfigError: The output holds a run of other settings or other questions.
    """
    job, engine = checked.job, checked.engine
    task = AnswerTask(
        model=checked.model,
        model_revision=checked.facts.revision,
        engine_name=engine.name,
        engine_settings=engine.answer_settings,
        largest=checked.largest_framing,
        decode=job.decode,
    )
    resolved = checked.describe() | {"benchmarks": list(job.names)}
    del resolved["decoding"]
    return plan_rows(
        task,
        rows,
        output,
        engine,
        settings=identify_job(job, FREE_TO_CHANGE, resolved),
        engines=checked.engines,
        unit_size=unit_size,
        heal=job.retry_errors,
    )
