"""An engine's load as figures: in stats.json, in one line of the status, in the report."""

from typing import Any

from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.settings import EngineSpec
from s4v_core.runs.engine_limits import estimate_prefill_share, find_limit


def summarise_load(load: EngineLoad, spec: EngineSpec, engines: int) -> dict[str, Any]:
    """A load as stats.json holds it, under `engine_load`; figures that the engine does not tell are
    None.

    `running`, `waiting`, `preparing` and `kv_cache_use` are means over the seconds in which an
    engine had requests, per engine; rates and shares go from 0 to 1.
    """
    limit, seconds = find_limit(load), load.step_s or 1.0
    has_tokens = load.output_tokens > 0
    return {
        "device": spec.device,
        "engines": engines,
        "limit": limit.kind if limit else None,
        "limited_by": limit.words if limit else None,
        "busy_s": round(load.step_s, 3),
        "steps": load.steps,
        "ms_per_step": round(1000 * load.step_s / max(load.timed_steps, 1), 2),
        "places": load.places,
        "running": round(load.running_s / seconds, 2),
        "waiting": round(load.waiting_s / seconds, 2),
        "preparing": round(load.preparing_s / seconds, 2),
        "requests": load.finished,
        "kv_cache_use": None if load.kv_peak is None else round(load.kv_s / seconds, 4),
        "kv_cache_peak": None if load.kv_peak is None else round(load.kv_peak, 4),
        "preemptions": None if load.kv_peak is None else load.preemptions,
        "prompt_tokens_per_step": _divide(load.prompt_tokens, load.steps if has_tokens else 0),
        "output_tokens_per_step": _divide(load.output_tokens, load.steps if has_tokens else 0),
        "prefill_share": round(estimate_prefill_share(load), 3) if has_tokens else None,
        "prefix_hit_rate": _divide(load.prefix_hits, load.prefix_queries),
        "image_hit_rate": _divide(load.image_hits, load.image_queries),
        "draft_acceptance": _divide(load.accepted, load.drafted),
    }


def _divide(part: float, whole: float) -> float | None:
    return round(part / whole, 3) if whole else None


def list_load(load: dict[str, Any]) -> dict[str, str]:
    """Label and value, for people, of each figure of `summarise_load` that is known."""
    shown = {
        "sequences a step": f"{load['running']:.1f} of {load['places']}",
        "waiting": f"{load['waiting']:.1f}",
    }
    if load["preparing"] >= 0.1:
        shown["in preparation"] = f"{load['preparing']:.1f}"
    if load["kv_cache_use"] is not None:
        use, peak = load["kv_cache_use"], load["kv_cache_peak"]
        shown["KV cache use"] = f"{use:.0%}, at most {peak:.0%}"
        shown["preemptions"] = f"{load['preemptions']:,}"
    if load["output_tokens_per_step"] is not None:
        shown["tokens a step"] = (
            f"{load['prompt_tokens_per_step']:,.1f} of prompts, "
            f"{load['output_tokens_per_step']:,.1f} generated"
        )
        shown["time for prompts"] = f"{load['prefill_share']:.0%}"
    ms = load["ms_per_step"]
    shown["ms a step"] = f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"
    rates = {
        "prefix cache hits": "prefix_hit_rate",
        "picture cache hits": "image_hit_rate",
        "drafts accepted": "draft_acceptance",
    }
    shown |= {k: f"{load[v]:.0%}" for k, v in rates.items() if load[v] is not None}
    return shown


def describe_load(load: dict[str, Any]) -> str:
    """One line for people about what `summarise_load` gives."""
    return "engine: " + "; ".join(f"{label} {value}" for label, value in list_load(load).items())
