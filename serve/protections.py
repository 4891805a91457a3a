"""Lists what protects the endpoints under a configuration, in sentences for their operators."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve.front.door import HEAD_LIMIT_S, MAX_CONNECTIONS, MAX_HEAD_BYTES
from serve.front.guard import GuardConfig
from serve.front.node_variables import PROXY_VARIABLE
from serve.keys import read_keys
from serve.settings import ServeConfig


def list_protections(args: dict[str, Any], live: Mapping[str, Any] | None = None) -> list[str]:
    """List the protections, one line each. A line that begins with `WARNING` names a risk.

    Args:
        live: Numbers in `user_config` of the file.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    config = ServeConfig.model_validate(args).apply_changes(live or {})
    guard, limits = config.guard, config.limits
    return [
        _describe_keys(config),
        "before the application: Serve's own /-/healthz and /-/routes answer anybody, with the "
        "prefix of the application and no more",
        f"rate: {guard.requests_per_minute} requests a minute and {guard.concurrent} at a time for "
        "a key without limits of its own, at each ingress replica; then 429",
        f"body: at most {guard.max_body_mib} MiB, within {guard.body_limit_s:g} s, refused while "
        f"it is read; headers {guard.max_header_kib} KiB",
        f"images: {config.decode.max_megapixels} Mpx at most, decoded in a separate process with "
        "limits of memory and time; formats by content, never by name",
        f"texts: {limits.max_text_chars} characters, {limits.max_tokens} tokens of an answer, "
        f"{limits.max_batch_images} images of a batch, {limits.timeout_s:g} s; special tokens in "
        "them stay words",
        _describe_urls(config),
        "model files: safetensors, no code from them is run (trust_remote_code is off)",
        f"connections: {MAX_CONNECTIONS} at each proxy; a head within {HEAD_LIMIT_S:g} s and "
        f"{MAX_HEAD_BYTES >> 10} KiB, if the nodes set {PROXY_VARIABLE}",
        _describe_origins(guard),
        (
            "WARNING logs: prompts and answers are written"
            if config.log_texts
            else "logs: which key asked what and when; no prompts, no images, no keys"
        ),
        *(
            f"{model.id}: {model.scaling.min_replicas} to {model.scaling.max_replicas} replicas, "
            f"{model.scaling.max_queued_requests} requests may wait; then 429"
            for model in config.models
        ),
    ]


def _describe_keys(config: ServeConfig) -> str:
    if config.guard.open_to_all:
        return "WARNING keys: none is needed; everybody who reaches the port may send requests"
    if not config.guard.keys_file:
        return "WARNING keys: no keys_file, so every request but health is refused"
    count = len(read_keys(Path(config.guard.keys_file)))
    return (
        f"keys: {count}, stored only as hashes and read again within seconds of a change; every "
        "path but health and page needs one"
    )


def _describe_origins(guard: GuardConfig) -> str:
    page = "page: " + ("open, without data" if guard.page else "off")
    if not guard.cors_origins:
        return f"cross-origin requests: closed; {page}"
    mark = "WARNING " if "*" in guard.cors_origins else ""
    return f"{mark}cross-origin requests: from {', '.join(guard.cors_origins)}; {page}"


def _describe_urls(config: ServeConfig) -> str:
    fetch = config.fetch
    if not fetch.enabled:
        return "images by URL: off"
    hosts = "every public host" if fetch.any_host else ", ".join(fetch.hosts)
    kind = "https and http" if fetch.http else "https"
    mark = "WARNING " if fetch.any_host or fetch.http else ""
    return f"{mark}images by URL: {kind} from {hosts}; private addresses never"
