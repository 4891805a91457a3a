"""vLLM in this process: continuous batching over all requests of all units in flight."""

import asyncio
import itertools
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil

from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.load_meter import LoadMeter, record_step
from s4v_core.engines.model_shape import read_model_shape
from s4v_core.engines.rendering import OWN_TEMPLATE
from s4v_core.engines.requests import (
    EngineDiedError,
    Generation,
    OnPiece,
    Request,
    refuse,
)
from s4v_core.engines.sampling import SamplingConfig, cut_at_stop, list_client_changes
from s4v_core.engines.settings import EngineSpec
from s4v_core.engines.thinking import AnswerPieces
from s4v_core.engines.vllm_arguments import (
    build_adapter_requests,
    build_engine_args,
    count_sequences,
    set_environment,
)
from s4v_core.engines.vllm_chat import VllmChat
from s4v_core.errors import ConfigError, EngineError

_LOOP = {"max_pattern_size": 32, "min_pattern_size": 1, "min_count": 6}
"""A pattern of up to 32 tokens that occurs six times in a row ends an answer. Longer loops are left
to the gate: the check costs the scheduler a call per size and token."""

_REMEMBERED_QUESTIONS = 1024

_ADMITTED_PER_SLOT = 1.1
"""Requests handed to vLLM per sequence it can run, so that a free place is filled at once."""


class VllmEngine:
    """vLLM's public AsyncLLM. Its EngineCore is a child process of this one."""

    def __init__(self, spec: EngineSpec) -> None:
        set_environment(spec)
        try:
            import vllm
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:  # many causes; only the real one helps
            raise EngineError("vllm", f"cannot be imported: {error!r}") from error
        self.version = f"vllm {vllm.__version__}"
        self.slots = int(count_sequences(spec) * _ADMITTED_PER_SLOT) + 1
        self._numbers = itertools.count()
        self._question_ids: dict[str, list[int]] = {}
        self._images_per_request = spec.images_per_request
        self._adapters = build_adapter_requests(spec)
        self._load, self._held = LoadMeter(count_sequences(spec)), 0
        self._shares_images = spec.shares_images
        before = set(psutil.Process().children(recursive=True))
        self._engine = AsyncLLM.from_engine_args(
            build_engine_args(spec, read_model_shape(spec.model)),
            stat_loggers=[lambda *_: self, *_exporters()],
        )
        self._children = set(psutil.Process().children(recursive=True)) - before
        self.max_model_len = int(self._engine.model_config.max_model_len)
        self._chat = VllmChat(self._engine)
        self._prompts = self._chat.make_renderer(spec.model, spec.template)
        self._uses_code = self._chat.uses_code and spec.template == OWN_TEMPLATE
        turn_end = None if self._uses_code else self._prompts.find_turn_end()
        self._stops = [] if turn_end is None else [turn_end]
        self.last_sign = time.monotonic()

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        if len(request.images) > self._images_per_request:
            return refuse("too_many_images")
        self._held += 1
        try:
            return await self._answer(request, sampling, on_piece)
        finally:
            self._held -= 1

    async def _answer(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None
    ) -> Generation:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            prompt = await self._make_prompt(request)
        except ConfigError as error:  # a question that forges marks, or that the template refuses
            return refuse(error)
        number = f"{next(self._numbers)}"
        try:
            parameters = _parameters(request, sampling, self._stops, on_piece is not None)
        except (VLLMClientError, ValueError) as error:
            return refuse(error)
        if on_piece:
            on_piece = AnswerPieces(on_piece, self._prompts.is_thinking_open(request))
        last, ids = None, list[int]()
        try:
            adapter = self._adapters[request.adapter]
            answers = self._engine.generate(prompt, parameters, number, lora_request=adapter)
            async for last in answers:
                ids += last.outputs[0].token_ids
                if on_piece:
                    on_piece(last.outputs[0].text)
        except EngineDeadError as error:
            raise EngineDiedError("vllm", "the engine died; see its log above") from error
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            return refuse(error)  # this request's fault; the engine lives
        assert last is not None, "a request that did not fail has an output"
        finish_reason, length = last.outputs[0].finish_reason, len(last.prompt_token_ids or ())
        answer = self._prompts.read_answer(request, ids, finish_reason, length)
        # vLLM ends at the token that completes a stop text, and the ids still have that token.
        return replace(answer, text=answer.text and cut_at_stop(sampling, answer.text))

    async def tokenize(self, request: Request) -> list[int]:
        """Token ids of a request's prompt, with one placeholder per image.

        Raises:
            ConfigError: The template refuses the request.
        """
        return list((await self._make_prompt(request))["prompt_token_ids"])

    async def _make_prompt(self, request: Request) -> dict[str, Any]:
        """A request as vLLM takes it."""
        if self._uses_code and not request.is_raw:
            return await self._chat.render_with_code(request)
        prompt: dict[str, Any] = {"prompt_token_ids": await self._tokenize(request)}
        if request.images:
            prompt["multi_modal_data"] = {"image": request.pictures}
            if self._shares_images:
                names = list(request.names_of_images)
                prompt["multi_modal_uuids"] = {"image": names}  # else vLLM hashes the pixels
        return prompt

    async def _tokenize(self, request: Request) -> list[int]:
        """Token ids of a request, made in a thread: a template may take seconds."""
        if not request.is_single_question:
            return await asyncio.to_thread(self._prompts.token_ids, request)
        known = self._question_ids  # a pass asks the same question again and again
        if request.prompt not in known:
            if len(known) >= _REMEMBERED_QUESTIONS:
                known.clear()
            known[request.prompt] = await asyncio.to_thread(self._prompts.token_ids, request)
        return known[request.prompt]

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called after each step of the engine (vLLM's StatLoggerBase)."""
        self.last_sign = time.monotonic()
        record_step(self._load, scheduler_stats, iteration_stats, mm_cache_stats, self._held)

    def take_load(self) -> EngineLoad:
        """The load since the last call (`MeasuredEngine`)."""
        return self._load.take()

    def log_engine_initialized(self) -> None:
        """Part of StatLoggerBase."""

    def log(self) -> None:
        """Part of StatLoggerBase."""

    def kill(self) -> None:
        for child in self._children:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def close(self) -> None:
        self._engine.shutdown()
        self.kill()  # what a shutdown leaves behind after a crash
        self._prompts.close()


def _exporters() -> list[Any]:
    """Classes that send vLLM's own metrics to Ray's agent; none without a Ray."""
    import ray

    if not ray.is_initialized():
        return []
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    return [RayPrometheusStatLogger]


def _parameters(request: Request, sampling: SamplingConfig, stops: list[int], streams: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import (
        RepetitionDetectionParams,
        RequestOutputKind,
        StructuredOutputsParams,
    )

    schema, changes = request.answer_schema, list_client_changes(sampling)
    # Whoever asks for a length gets it, through loops too: benchmarks count on it.
    has_length = "ignore_eos" in changes or "min_tokens" in changes
    ends_loops = sampling.stop_at_loops and not has_length
    if "stop" in changes:
        changes["stop"] = list(changes["stop"])
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed_of(request.content),
        stop_token_ids=[] if "ignore_eos" in changes else stops,
        repetition_detection=RepetitionDetectionParams(**_LOOP) if ends_loops else None,
        structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
        # One answer per request, and its text from the ids in one go, is the least CPU time.
        output_kind=RequestOutputKind.DELTA if streams else RequestOutputKind.FINAL_ONLY,
        detokenize=streams or "stop" in changes,
        **changes,
    )
