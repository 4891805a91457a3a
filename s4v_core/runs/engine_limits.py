"""Finds the limit of an engine in its load, and the change that makes it faster."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.settings import CPU_SEQUENCES

_LEAST_STEPS = 20
"""With fewer timed steps nothing is said about what limits an engine."""

_PREEMPTED_SHARE = 0.05
"""Preemptions per request from which on the key-value cache is the limit, however full the engine
looks: each one computes a whole prompt again."""

_SMALL_RUN = 4
"""Requests per place below which a run is mostly its own beginning and end."""

_ROOMY = 0.5
"""Highest use of the key-value cache at which twice the sequences would fit."""


@dataclass(frozen=True, slots=True)
class EngineLimit:
    """The limit of an engine.

    Attributes:
        kind: kv_cache, prefill, step_tokens, decode, batch, requests or preparation.
        words: The same for people, as it stands behind "bound by engine".
    """

    kind: str
    words: str


def find_limit(load: EngineLoad | None) -> EngineLimit | None:
    """The limit of engines with this load; None if it is unknown or tells too little.

    The state in which the engines spent most of their seconds decides:

    - Free places, requests waiting, no room in the key-value cache: `kv_cache`. Also if more than
      one request in twenty was preempted, whatever the state.
    - Free places and nothing waiting: `preparation` if, for most of that time, requests were still
      on their way through the engine's own processor, else `requests`.
    - Free places, requests waiting and room for them: `step_tokens`, because a step takes only so
      many tokens and pictures.
    - All places taken: `prefill` if prompts, their pictures included, take more than half of the
      steps' time (`estimate_prefill_share`), else `decode`; `batch` if the engine tells no tokens.
    """
    if load is None or load.timed_steps < _LEAST_STEPS or load.step_s <= 0:
        return None
    preempted = f", {load.preemptions} preemptions" if load.preemptions else ""
    if load.preemptions > _PREEMPTED_SHARE * load.finished:
        return EngineLimit("kv_cache", f"KV cache full{preempted}")
    states = {
        "crowded": load.crowded_s,
        "short": load.short_s,
        "rationed": load.rationed_s,
        "full": load.full_s,
    }
    state = max(states, key=lambda name: states[name])
    if state == "crowded":
        return EngineLimit("kv_cache", f"KV cache full{preempted}")
    if state == "short" and load.unprepared_s > load.short_s / 2:
        return EngineLimit("preparation", "queue empty: requests are prepared too slowly")
    if state == "short":
        return EngineLimit("requests", "few requests: queue empty")
    if state == "rationed":
        return EngineLimit("step_tokens", "prefill, steps full of prompts")
    return _name_full(load)


def _name_full(load: EngineLoad) -> EngineLimit:
    sequences = f"{load.running_s / load.step_s:.0f} of {load.places} sequences"
    if not load.output_tokens:
        return EngineLimit("batch", sequences)
    if estimate_prefill_share(load) > 0.5:
        return EngineLimit("prefill", "prefill")
    return EngineLimit("decode", f"decode, {sequences}")


def estimate_prefill_share(load: EngineLoad) -> float:
    """Share of the steps' time that prompts and their pictures take, from 0 to 1.

    Nearly every step of a busy engine holds prompts beside answers. Steps differ in how many tokens
    of each they hold, so least squares tell what a prompt token costs:
    seconds = step + prompt tokens * p + output tokens * o. The share is p times all prompt tokens.
    """
    n, total_s = load.timed_steps, load.step_s
    if not n or total_s <= 0:
        return 0.0
    prompts, outputs, pp, oo, po, ps, os = load.moments
    variances = np.array([pp - prompts**2 / n, oo - outputs**2 / n])
    scale = np.sqrt(np.maximum(variances, 0.0))
    scale[scale < 1e-6] = np.inf  # such tokens come in equal numbers in every step: no effect
    shared = (po - prompts * outputs / n) / (scale[0] * scale[1])
    with_seconds = np.array([ps - prompts * total_s / n, os - outputs * total_s / n]) / scale
    correlation = np.array([[1.0, shared], [shared, 1.0]])
    costs = np.linalg.lstsq(correlation, with_seconds, rcond=1e-6)[0] / scale
    return float(np.clip(costs[0] * prompts / total_s, 0.0, 1.0))


def advise_engine(load: dict[str, Any]) -> str | None:
    """The change that makes a run faster whose pace its engines set; None if their limit is
    unknown.

    Args:
        load: What `summarise_load` gives.
    """
    advice = {
        "kv_cache": _advise_memory(load),
        "prefill": "more --engines, or smaller pictures and shorter questions",
        "step_tokens": "a larger --settings.max-num-batched-tokens, or more --engines",
        "decode": _advise_decode(load),
        "batch": "a larger --settings.batch-size if memory allows, or more --engines",
        "requests": "a larger --settings.units-in-flight, or more CPUs in the cluster",
        "preparation": "a larger --settings.cpus, more --engines, or smaller pictures",
    }
    is_small = load["requests"] < _SMALL_RUN * load["places"] * load["engines"]
    if load["limit"] == "requests" and is_small:
        return "more work at once: these rows are too few to fill the engines"
    return advice.get(load["limit"])


def _advise_memory(load: dict[str, Any]) -> str:
    """Advice for a full key-value cache. A shorter --settings.max-model-len is none: vLLM takes
    from the cache only what a sequence has reached."""
    memory = "--settings.gpu-memory-utilization, --settings.kv-cache-dtype fp8"
    if load["device"] == "cpu":
        memory = "--settings.kv-cache-gib"
    fewer = " or fewer --settings.max-num-seqs, so that none is preempted"
    return f"a larger {memory}, more --engines{fewer if load['preemptions'] else ''}"


def _advise_decode(load: dict[str, Any]) -> str:
    is_capped = load["device"] == "cpu" and load["places"] >= CPU_SEQUENCES
    peak = load["kv_cache_peak"]
    if peak is None or peak > _ROOMY or is_capped:
        return "more --engines"
    return (
        "a larger --settings.max-num-seqs (the KV cache was never more than "
        f"{peak:.0%} full), or more --engines"
    )
