"""The arguments and the environment that vLLM's engine is started with."""

import json
import os
from pathlib import Path
from typing import Any

from s4v_core.engines.model_shape import ModelShape
from s4v_core.engines.settings import CPU_SEQUENCES, EngineSettings, EngineSpec
from s4v_core.errors import ConfigError

_FLOAT32_BYTES = 4
_MAX_CPU_KV_CACHE = 4 << 30

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Sizes that vLLM makes room for; an adapter takes the next one."""

_HEADER_BYTES = 64 << 20
"""Largest header of a safetensors file that is read."""

_TOWER_ADAPTERS = "enable_tower_connector_lora"
"""vLLM's setting for adapters of tower and projector. It is never set here: with LLaVA-1.5 an
engine of vLLM 0.32 dies of it at the first image, whose tokens it counts with the class token."""

_VISION_PARTS = ("vision", "visual", "projector", "connector", "merger")
"""Parts of the names of layers before the language model."""

_ADAPTER_NAME, _ADAPTER_ID = "adapter", 1
"""Name and number of the adapter of the settings; further adapters have the numbers behind it."""

_SHARED_IMAGES_GB = 2
"""Processed images that are kept where several requests show the same one; they follow each other,
so those in flight are enough."""

_PREFIX_BLOCK = 32
"""Tokens of a key-value block on a CPU where prefixes are shared: only whole blocks are, and those
of 128, vLLM's choice, leave most of a prompt behind the image's last one to be computed again."""

_CPU_WORKER = "s4v_core.engines.vllm_cpu_worker.SeedSafeWorker"

_NUMA_NODES = Path("/sys/devices/system/node")


def build_engine_args(spec: EngineSpec, shape: ModelShape) -> Any:
    """The vllm.AsyncEngineArgs of an engine.

    Raises:
        ConfigError: The adapter cannot be served.
    """
    from vllm import AsyncEngineArgs
    from vllm.config import StructuredOutputsConfig

    settings = spec.settings
    length = min(settings.max_model_len or shape.longest, shape.longest)
    on_cpu = spec.device == "cpu"
    arguments: dict[str, Any] = {
        "model": spec.model,
        "dtype": "float32" if on_cpu and settings.dtype == "auto" else settings.dtype,
        "max_model_len": length,
        "max_num_seqs": count_sequences(spec),
        "enforce_eager": on_cpu or settings.enforce_eager,
        "limit_mm_per_prompt": {"image": spec.images_per_request},
        # An image that is used once: caching it, or hashing it for a cache, would be wasted.
        "mm_processor_cache_gb": _SHARED_IMAGES_GB if spec.shares_images else 0,
        "enable_prefix_caching": spec.shares_images,
        # Left to itself, a model may fill an answer with white space between two JSON tokens.
        "structured_outputs_config": StructuredOutputsConfig(
            backend="xgrammar", disable_any_whitespace=True
        ),
        "trust_remote_code": False,
        "enable_log_requests": False,
        "disable_log_stats": True,
        # Requests carry their own sampling; a checkpoint's generation_config must not add to it.
        "generation_config": "vllm",
    }
    if settings.max_num_batched_tokens:
        arguments["max_num_batched_tokens"] = settings.max_num_batched_tokens
    if on_cpu:
        arguments["worker_cls"] = _CPU_WORKER
    if on_cpu and spec.shares_images:
        arguments["block_size"] = _PREFIX_BLOCK
    arguments |= _divide_memory(spec, length, shape.kv_values)
    arguments |= _spread_model(settings)
    arguments |= _change_answers(settings)
    arguments |= _make_room_for_adapters(spec)
    return AsyncEngineArgs(**arguments | settings.read_json("engine_args"))


def build_adapter_requests(spec: EngineSpec) -> dict[str, Any]:
    """The vllm LoRARequest that goes with a request, by the adapter that the request names; for
    requests that name none, that of the settings, or None.

    All adapters are folders on this node.
    """
    found: dict[str, Any] = {"": None}
    if not _list_adapters(spec):
        return found
    from vllm.lora.request import LoRARequest

    if spec.settings.adapter is not None:
        found[""] = LoRARequest(_ADAPTER_NAME, _ADAPTER_ID, spec.settings.adapter)
    for number, (name, folder, _) in enumerate(spec.adapters, _ADAPTER_ID + 1):
        found[name] = LoRARequest(name, number, folder)
    return found


def _list_adapters(spec: EngineSpec) -> list[str]:
    own = [] if spec.settings.adapter is None else [spec.settings.adapter]
    return own + [folder for _, folder, _ in spec.adapters]


def count_sequences(spec: EngineSpec) -> int:
    """Answers that an engine generates at the same time."""
    wanted = spec.settings.max_num_seqs
    return min(wanted, CPU_SEQUENCES) if spec.device == "cpu" else wanted


def refuse_small_steps(settings: EngineSettings, tokens: int) -> None:
    """Check that one engine step can hold an image: vLLM never starts with one that it cannot.

    Args:
        tokens: Most tokens of a prompt with its image.

    Raises:
        ConfigError: It cannot.
    """
    found = settings.max_num_batched_tokens
    if found is not None and found < tokens:
        raise ConfigError(
            f"settings.max_num_batched_tokens: found {found}, needed at least {tokens}, the "
            "tokens of a prompt with its image, because a step holds whole images; leave it off, "
            "or lower --pixels-max"
        )


def set_environment(spec: EngineSpec) -> None:
    """Set the variables that vLLM reads as it starts; those that are set already stay."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    processes = spec.settings.gpus_per_engine
    if spec.device == "cpu" and processes > 1 and _count_numa_nodes() < processes:
        # vLLM binds each process to a NUMA node of its own, and ends where there are too few.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # Ray sets this to the CPUs of the whole engine.
        os.environ["OMP_NUM_THREADS"] = str(max(1, spec.settings.reserved_cpus // processes))


def _divide_memory(spec: EngineSpec, length: int, kv_values: int) -> dict[str, Any]:
    """Memory of the key-value cache: a size in bytes, or a share of the GPU."""
    given = (spec.settings.kv_cache_gib or 0) << 30
    if spec.device == "cpu":
        longest = length * kv_values * _FLOAT32_BYTES
        longest //= spec.settings.gpus_per_engine  # each process holds its own heads
        most = max(_MAX_CPU_KV_CACHE, longest)
        return {"kv_cache_memory_bytes": given or min(count_sequences(spec) * longest, most)}
    share: dict[str, Any] = {"gpu_memory_utilization": spec.settings.gpu_memory_utilization}
    return share | ({"kv_cache_memory_bytes": given} if given else {})


def _spread_model(settings: EngineSettings) -> dict[str, Any]:
    """The processes that an engine consists of, and what starts them."""
    if settings.nodes_per_engine > 1:
        backend = "ray"  # takes the GPUs of the placement group that the worker runs in
    else:
        backend = "mp" if settings.gpus_per_engine > 1 else "uni"
    found: dict[str, Any] = {
        "tensor_parallel_size": settings.gpus_per_engine,
        "pipeline_parallel_size": settings.nodes_per_engine,
        "distributed_executor_backend": backend,
    }
    return found | ({"mm_encoder_tp_mode": "data"} if settings.encoder_data_parallel else {})


def _change_answers(settings: EngineSettings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "quantization": settings.quantization,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "speculative_config": settings.read_json("speculative") or None,
        "mm_processor_kwargs": settings.read_json("mm_processor_kwargs") or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _make_room_for_adapters(spec: EngineSpec) -> dict[str, Any]:
    adapters = _list_adapters(spec)
    if not adapters:
        return {}
    for adapter in adapters:
        _refuse_vision_layers(adapter, spec.settings)
    rank = max(_read_rank(Path(adapter)) for adapter in adapters)
    return {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": rank}


def _refuse_vision_layers(adapter: str, settings: EngineSettings) -> None:
    """Refuse an adapter with layers that vLLM would leave out without a word."""
    is_asked_for = _TOWER_ADAPTERS in settings.read_json("engine_args")
    if not is_asked_for and _adapts_vision(Path(adapter)):
        raise ConfigError(
            f"settings.adapter: {adapter} has layers before the language model, which "
            "vLLM leaves out; caption with the merged model instead (OUTPUT/model of a LoRA run), "
            f"or try vLLM's own way: --settings.engine-args '{{\"{_TOWER_ADAPTERS}\": true}}'"
        )


def _adapts_vision(folder: Path) -> bool:
    """Whether an adapter has layers outside the language model. Weights of another format are not
    looked into."""
    path = folder / "adapter_model.safetensors"
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            names = json.loads(file.read(min(size, _HEADER_BYTES)))
    except (OSError, ValueError):
        return False  # vLLM itself says what is wrong with the file
    return any(part in name for name in names for part in _VISION_PARTS)


def _read_rank(folder: Path) -> int:
    """The smallest size that vLLM has room for and that holds an adapter's rank."""
    config = json.loads((folder / "adapter_config.json").read_text())
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    rank = max((rank for rank in ranks if isinstance(rank, int)), default=0)
    fits = [size for size in _LORA_RANKS if size >= rank]
    if rank < 1 or not fits:
        raise ConfigError(
            f"settings.adapter: {folder} has the rank {rank}, allowed 1 to {_LORA_RANKS[-1]}"
        )
    return fits[0]


def _count_numa_nodes() -> int:
    return len(list(_NUMA_NODES.glob("node[0-9]*"))) or 1
