"""Settings of engines that are written as JSON, and which arguments of vLLM they may hold."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from s4v_core.errors import ConfigError
from s4v_core.installed_names import list_engine_arguments

_FLAGS = {
    "model": "--model",
    "model_weights": "--model",
    "tokenizer": "--model",
    "revision": "--revision",
    "tokenizer_revision": "--revision",
    "seed": "--sampling.seed",
    "dtype": "--settings.dtype",
    "max_model_len": "--settings.max-model-len",
    "max_num_seqs": "--settings.max-num-seqs",
    "max_num_batched_tokens": "--settings.max-num-batched-tokens",
    "enforce_eager": "--settings.enforce-eager",
    "gpu_memory_utilization": "--settings.gpu-memory-utilization",
    "kv_cache_memory_bytes": "--settings.kv-cache-gib",
    "kv_cache_dtype": "--settings.kv-cache-dtype",
    "quantization": "--settings.quantization",
    "tensor_parallel_size": "--settings.gpus-per-engine",
    "pipeline_parallel_size": "--settings.nodes-per-engine",
    "mm_encoder_tp_mode": "--settings.encoder-data-parallel",
    "mm_processor_kwargs": "--settings.mm-processor-kwargs",
    "speculative_config": "--settings.speculative",
    "spec_method": "--settings.speculative",
    "spec_model": "--settings.speculative",
    "spec_tokens": "--settings.speculative",
    "enable_lora": "--settings.adapter",
    "max_lora_rank": "--settings.adapter",
    "max_loras": "--settings.adapter",
    "default_mm_loras": "--settings.adapter",
    "data_parallel_size": "--engines",
    "data_parallel_size_local": "--engines",
    "data_parallel_backend": "--engines",
}
"""Arguments of vLLM that have a flag here, and that flag."""

_OWN = {
    "trust_remote_code": "code that a checkpoint brings is never run here",
    "code_revision": "code that a checkpoint brings is never run here",
    "limit_mm_per_prompt": "a request has as many images as its task gives it",
    "mm_processor_cache_gb": "the pass decides whether an image is used again",
    "enable_prefix_caching": "the pass decides whether an image is used again",
    "distributed_executor_backend": "it follows from the number of GPUs and nodes",
    "nnodes": "Ray places the engines",
    "node_rank": "Ray places the engines",
    "master_addr": "Ray places the engines",
    "master_port": "Ray places the engines",
    "device_ids": "Ray places the engines",
    "enable_log_requests": "requests are rows, and rows are written",
    "disable_log_stats": "the run reports its own figures",
    "generation_config": "requests carry their own sampling",
    "override_generation_config": "requests carry their own sampling",
    "skip_tokenizer_init": "answers are read back with the tokenizer",
    "runner": "engines here generate text",
}
"""Arguments of vLLM that are never left to the user, and why."""


def dump_mapping(value: Any) -> Any:
    """A mapping (from YAML or Python) as JSON text; anything else as it is."""
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value


def parse_object(name: str, text: str | None) -> dict[str, Any]:
    """The JSON object of a setting; empty if it is not set.

    Raises:
        ConfigError: The text is no JSON object.
    """
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: found {text!r}, which is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{name}: found {text!r}, allowed a JSON object, such as {{}}")
    return found


def refuse_engine_arguments(names: Mapping[str, Any]) -> None:
    """Check the names of arguments that a user gives to vllm.AsyncEngineArgs.

    Raises:
        ConfigError: There is another flag for one of them, it is not the user's to set, or vLLM has
            no such argument.
    """
    known = list_engine_arguments()
    for name in names:
        if flag := _FLAGS.get(name):
            raise ConfigError(f"settings.engine_args: found {name!r}; use {flag} instead")
        if reason := _OWN.get(name):
            raise ConfigError(f"settings.engine_args: found {name!r}, which is fixed: {reason}")
        if known and (name not in known or name.startswith("_")):
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"settings.engine_args: found {name!r}, which is no argument of "
                f"vllm.AsyncEngineArgs{hint}"
            )
