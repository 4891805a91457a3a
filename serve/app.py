"""The application: an ingress in front of one group of engine replicas per model.

serve run serve/config.yaml          the same file works for serve deploy and a KubeRay RayService
serve run serve.app:build            serves the demo captioner under both model names
"""

import os
from collections.abc import Mapping
from typing import Any

from s4v_core.errors import ConfigError
from serve.api.routes import ROUTES, make_app
from serve.engines.models import Model, check_models
from serve.front.refusals import RETRY_AFTER_S
from serve.keys import Keyring, open_keyring
from serve.settings import DEMO, Scaling, ServeConfig

_HEALTH_PERIOD_S, _HEALTH_TIMEOUT_S = 10.0, 30.0
_DRAIN_SPARE_S = 10.0
"""Seconds beyond the time limit of an answer in which a replica that shuts down may finish its
requests: streams that have begun end whole."""


_SPARE_REQUESTS = 64
"""Requests that Serve hands to an ingress replica beyond those that may be generating there, so
that a full one still answers health checks and lists its models, and refuses in OpenAI's form."""

_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"


def build(args: dict[str, Any]) -> Any:
    """Build the application (a ray.serve.Application) from the fields of ServeConfig.

    Raises:
        ConfigError: A setting, a checkpoint or the keys file cannot be used; nothing is deployed.
    """
    return build_application(*check_args(args))


def check_args(args: dict[str, Any]) -> tuple[ServeConfig, tuple[Model, ...], Keyring]:
    """Check everything that can be wrong with a configuration, before Ray or vLLM is loaded.

    Raises:
        ConfigError: A setting, a checkpoint or the keys file cannot be used.
    """
    if os.environ.get(_HAPROXY) == "1":
        raise ConfigError(
            f"{_HAPROXY}: found 1, allowed 0: what protects the endpoints before a key is checked "
            "works in Serve's own proxy"
        )
    config = ServeConfig.model_validate({"models": DEMO} | args)
    return config, check_models(config.models), open_keyring(config.guard.keys_file)


def build_application(
    config: ServeConfig,
    models: tuple[Model, ...],
    keyring: Keyring,
    live: Mapping[str, Any] | None = None,
) -> Any:
    """Build the application. Building an LLM deployment starts a local Ray if none is running.

    Args:
        live: Numbers that can change without a deployment, as in `user_config` of the file.
    """
    from ray import serve
    from ray.serve.llm import build_llm_deployment
    from ray.serve.llm.ingress import make_fastapi_ingress

    from serve.api.ingress import Ingress
    from serve.engines.replica import CaptionServer

    engines = [
        build_llm_deployment(
            _build_llm_config(model, config.limits.timeout_s),
            deployment_cls=CaptionServer,
            bind_kwargs={"model": model},
        )
        for model in models
    ]
    app = make_app(config, keyring)
    ingress = make_fastapi_ingress(Ingress, endpoint_map=ROUTES, app=app)
    options = _build_deployment_options(config.ingress, config.limits.timeout_s)
    options["max_ongoing_requests"] += _SPARE_REQUESTS
    options["ray_actor_options"] = {"num_cpus": config.ingress_cpus}
    options["user_config"] = dict(live or {})
    return serve.deployment(ingress, name="Ingress", **options).bind(config, models, *engines)


def _build_llm_config(model: Model, answer_limit_s: float) -> Any:
    from ray.serve.llm import LLMConfig

    config, spec = model.config, model.spec
    on_gpu = spec.device == "gpu"
    options = _build_deployment_options(model.scaling, answer_limit_s)
    # The replica runs the engine in its own process, so it takes the GPUs itself: Ray then shows it
    # these and no others. It takes no CPUs: the bundle, to which its GPUs are added, reserves them.
    options["ray_actor_options"] = {"num_cpus": 0, "num_gpus": spec.gpus}
    return LLMConfig(
        model_loading_config={"model_id": config.id, "model_source": spec.model},
        accelerator_type=config.accelerator if on_gpu else None,
        accelerator_config={"kind": "gpu" if on_gpu else "cpu"},
        placement_group_config={"bundles": [{"CPU": config.settings.reserved_cpus}]},
        deployment_config=options,
        log_engine_metrics=False,
    )


def _build_deployment_options(scaling: Scaling, answer_limit_s: float) -> dict[str, Any]:
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "initial_replicas": max(scaling.min_replicas, 1),
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "metrics_interval_s": min(10.0, max(scaling.upscale_delay_s / 3, 0.5)),
            "look_back_period_s": max(scaling.upscale_delay_s, 2.0),
        },
        "max_ongoing_requests": scaling.max_ongoing_requests,
        "max_queued_requests": scaling.max_queued_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "health_check_timeout_s": _HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": answer_limit_s + _DRAIN_SPARE_S,
    }
