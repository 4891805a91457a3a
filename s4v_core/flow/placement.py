"""Where engine workers run: the resources that each reserves, on one node or on several."""

import secrets
from typing import Any

from ray.util import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s4v_core.flow.spec import Engines, FlowSpec

_ANY_SHARE = 0.001
"""Part of a node's mark for its GPU type that a bundle reserves, to be put on such a node."""


def engine_resources(spec: FlowSpec, engines: Engines) -> dict[str, Any]:
    """Ray resources that an engine worker reserves by itself.

    CPUs other than a reading task's keep Ray Data from fusing the two into one actor.
    """
    engine = spec.engine
    cpus = engine.settings.reserved_cpus
    resources: dict[str, Any] = {"num_cpus": cpus}
    if engine.device == "gpu" and not engine.spans_nodes:
        resources["num_gpus"] = engine.gpus
        if engines.accelerator:
            resources["accelerator_type"] = engines.accelerator
    elif cpus == 1:
        resources["num_cpus"] = 1.01
    return resources


def place_engine(spec: FlowSpec, engines: Engines) -> dict[str, Any]:
    """Ray options that put one more engine worker in its place; none if it needs one node only.

    For an engine on several nodes, a placement group reserves its GPUs one by one, as vLLM demands.
    The worker runs in the first bundle and takes no GPU itself: vLLM starts a process of its own in
    every bundle. Ray packs them onto as few nodes as it can. The group stays until
    `free_places`, whatever becomes of the worker.
    """
    if not spec.engine.spans_nodes:
        return {}
    name = f"{_prefix(spec)}{secrets.token_hex(4)}"
    group = placement_group(list_bundles(spec, engines), strategy="PACK", name=name)
    strategy = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    return {"scheduling_strategy": strategy}


def free_places(spec: FlowSpec) -> None:
    """Give back the GPUs of all engines on several nodes that this run has placed."""
    if not spec.engine.spans_nodes:
        return
    for found in placement_group_table().values():
        if found["name"].startswith(_prefix(spec)) and found["state"] != "REMOVED":
            remove_placement_group(get_placement_group(found["name"]))


def list_bundles(spec: FlowSpec, engines: Engines) -> list[dict[str, float]]:
    """Bundles of the placement group of an engine on several nodes."""
    bundle: dict[str, float] = {"GPU": 1}
    if engines.accelerator:
        bundle[f"accelerator_type:{engines.accelerator}"] = _ANY_SHARE
    bundles = [dict(bundle) for _ in range(spec.engine.gpus)]
    bundles[0]["CPU"] = engine_resources(spec, engines)["num_cpus"]
    return bundles


def _prefix(spec: FlowSpec) -> str:
    return f"s4v {spec.run_id} "
