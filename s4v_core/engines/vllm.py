"""vLLM in this process: continuous batching over all requests of all units in flight."""

import asyncio
import itertools
import os
import time
from contextlib import suppress
from typing import Any

import psutil

from s4v_core.engines.rendering import PromptRenderer
from s4v_core.engines.requests import (
    EngineDiedError,
    Generation,
    OnPiece,
    Request,
    refuse,
)
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import CPU_SEQUENCES, EngineSpec
from s4v_core.errors import EngineError

_FLOAT32_BYTES = 4
_MAX_CPU_KV_CACHE = 4 << 30

_LOOP = {"max_pattern_size": 32, "min_pattern_size": 1, "min_count": 6}
"""A pattern of up to 32 tokens that occurs six times in a row ends an answer. Longer loops are left
to the gate: the check costs the scheduler a call per size and token."""

_REMEMBERED_QUESTIONS = 1024

_SHARED_IMAGES_GB = 2
"""Processed images that are kept where several requests show the same one; they follow each other,
so those in flight are enough."""

_PREFIX_BLOCK = 32
"""Tokens of a key-value block on a CPU where prefixes are shared: only whole blocks are, and those
of 128, vLLM's choice, leave most of a prompt behind the image's last one to be computed again."""

_ADMITTED_PER_SLOT = 1.1
"""Requests handed to vLLM per sequence it can run, so that a free place is filled at once."""


class VllmEngine:
    """vLLM's public AsyncLLM. Its EngineCore is a child process of this one."""

    def __init__(self, spec: EngineSpec) -> None:
        _set_environment()
        try:
            import vllm
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:  # many causes; only the real one helps
            raise EngineError("vllm", f"cannot be imported: {error!r}") from error
        self.version = f"vllm {vllm.__version__}"
        self.slots = int(_count_sequences(spec) * _ADMITTED_PER_SLOT) + 1
        self._numbers = itertools.count()
        self._prompts = PromptRenderer(spec.model, spec.template)
        self._question_ids: dict[str, list[int]] = {}
        self._images_per_request = spec.images_per_request
        self._shares_images = spec.shares_images
        before = set(psutil.Process().children(recursive=True))
        self._engine = AsyncLLM.from_engine_args(
            _engine_args(spec, self._prompts),
            stat_loggers=[lambda *_: self, *_exporters()],
        )
        self._children = set(psutil.Process().children(recursive=True)) - before
        self.last_sign = time.monotonic()

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if len(request.images) > self._images_per_request:
            return refuse("too_many_images")
        prompt: dict[str, Any] = {"prompt_token_ids": await self._tokenize(request)}
        if request.images:
            prompt["multi_modal_data"] = {"image": request.pictures}
            if self._shares_images:
                content = request.content or request.key
                names = [f"{content}-{place}" for place in range(len(request.images))]
                prompt["multi_modal_uuids"] = {"image": names}  # else vLLM hashes the pixels
        number = f"{next(self._numbers)}"
        parameters = _parameters(request, sampling, streams=on_piece is not None)
        last, ids = None, list[int]()
        try:
            async for last in self._engine.generate(prompt, parameters, number):
                ids += last.outputs[0].token_ids
                if on_piece:
                    on_piece(last.outputs[0].text)
        except EngineDeadError as error:
            raise EngineDiedError("vllm", "the engine died; see its log above") from error
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            return refuse(error)  # this request's fault; the engine lives
        assert last is not None, "a request that did not fail has an output"
        return Generation(
            self._prompts.answer(ids, request.prefill),
            last.outputs[0].finish_reason,
            len(last.prompt_token_ids or ()),
            len(ids),
        )

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

    def record(self, *_: Any, **__: Any) -> None:
        """Called after each step of the engine (vLLM's StatLoggerBase)."""
        self.last_sign = time.monotonic()

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
    """vLLM's own metrics, through Ray's agent where there is one."""
    import ray

    if not ray.is_initialized():
        return []
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    return [RayPrometheusStatLogger]


def _parameters(request: Request, sampling: SamplingConfig, streams: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import (
        RepetitionDetectionParams,
        RequestOutputKind,
        StructuredOutputsParams,
    )

    schema = request.answer_schema
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed_of(request.content),
        repetition_detection=RepetitionDetectionParams(**_LOOP) if sampling.stop_at_loops else None,
        structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
        # One answer per request, and its text from the ids in one go, is the least CPU time.
        output_kind=RequestOutputKind.DELTA if streams else RequestOutputKind.FINAL_ONLY,
        detokenize=streams,
    )


def _count_sequences(spec: EngineSpec) -> int:
    wanted = spec.settings.max_num_seqs
    return min(wanted, CPU_SEQUENCES) if spec.device == "cpu" else wanted


def _engine_args(spec: EngineSpec, prompts: PromptRenderer) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.config import StructuredOutputsConfig

    settings = spec.settings
    length = min(settings.max_model_len or prompts.longest, prompts.longest)
    on_cpu = spec.device == "cpu"
    arguments: dict[str, Any] = {
        "model": spec.model,
        "dtype": "float32" if on_cpu and settings.dtype == "auto" else settings.dtype,
        "max_model_len": length,
        "max_num_seqs": _count_sequences(spec),
        "enforce_eager": on_cpu or settings.enforce_eager,
        "limit_mm_per_prompt": {"image": spec.images_per_request},
        # An image that is used once: caching it, or hashing it for a cache, would be wasted.
        "mm_processor_cache_gb": _SHARED_IMAGES_GB if spec.shares_images else 0,
        "enable_prefix_caching": spec.shares_images,
        # Left to itself, a model may fill an answer with white space between two JSON tokens.
        "structured_outputs_config": StructuredOutputsConfig(
            backend="xgrammar", disable_any_whitespace=True
        ),
        "distributed_executor_backend": "uni",
        "trust_remote_code": False,
        "enable_log_requests": False,
        "disable_log_stats": True,
        # Requests carry their own sampling; a checkpoint's generation_config must not add to it.
        "generation_config": "vllm",
    }
    if settings.max_num_batched_tokens:
        arguments["max_num_batched_tokens"] = settings.max_num_batched_tokens
    if on_cpu and spec.shares_images:
        arguments["block_size"] = _PREFIX_BLOCK
    if on_cpu:
        wanted = _count_sequences(spec) * length * prompts.kv_values * _FLOAT32_BYTES
        given = (settings.kv_cache_gib or 0) << 30
        arguments["kv_cache_memory_bytes"] = given or min(wanted, _MAX_CPU_KV_CACHE)
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return AsyncEngineArgs(**arguments)


def _set_environment() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
