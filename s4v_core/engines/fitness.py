"""Which settings an engine can work with, checked before anything is started or written."""

from importlib import util

from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.installed_names import list_quantizations

_VLLM_ONLY = (
    "gpus_per_engine",
    "nodes_per_engine",
    "encoder_data_parallel",
    "quantization",
    "kv_cache_dtype",
    "speculative",
    "mm_processor_kwargs",
    "engine_args",
)
"""Settings that engine vllm alone understands."""

_ADVICE = {
    "transformers": "choose --engine vllm",
    "diffusers": "leave it out",
    "openai": "set it where the endpoint is started",
    "fake": "leave it out",
}


_FOREIGN_METHODS = ("bitsandbytes", "gguf", "hqq", "aqlm", "eetq", "higgs", "vptq", "bitnet")
"""Methods that some versions of vLLM cannot load, and that have one name everywhere."""


def refuse_unfit_settings(name: str, settings: EngineSettings, device: str) -> None:
    """Check that an engine can work with its settings.

    Raises:
        ConfigError: It does not know one of them, cannot use it on this device, or lacks a package.
    """
    if name != "vllm":
        _refuse_all(name, settings, _VLLM_ONLY)
    if name in ("openai", "diffusers", "fake"):
        _refuse_all(name, settings, ("adapter",))
    if name == "transformers" and settings.adapter and not util.find_spec("peft"):
        raise ConfigError(
            "settings.adapter: engine transformers needs the package peft for it; install peft, or "
            "choose --engine vllm"
        )
    if device == "cpu" and settings.nodes_per_engine > 1:
        raise ConfigError(
            f"settings.nodes_per_engine: found {settings.nodes_per_engine}, allowed 1 on a CPU, "
            "because vLLM spreads an engine over nodes by their GPUs"
        )


def refuse_unfit_checkpoint(name: str, model: str, method: str | None) -> None:
    """Check that an engine can load the way in which a checkpoint is quantized.

    Args:
        method: `quant_method` of the checkpoint's config.json; None if it is not quantized.

    Raises:
        ConfigError: It cannot.
    """
    if method not in _FOREIGN_METHODS or name != "vllm":
        return  # vLLM has many names for the others, and judges them itself
    known = list_quantizations()
    if known and method not in known:
        raise ConfigError(
            f"model: {model} is quantized by {method}, which the installed vLLM does not load; "
            "name the unquantized checkpoint and set --settings.quantization, or choose "
            "--engine transformers"
        )


def _refuse_all(name: str, settings: EngineSettings, fields: tuple[str, ...]) -> None:
    for field in fields:
        found, default = getattr(settings, field), EngineSettings.model_fields[field].default
        if found != default:
            raise ConfigError(
                f"settings.{field}: found {found!r}, which engine {name} cannot use; "
                f"{_ADVICE[name]}"
            )
