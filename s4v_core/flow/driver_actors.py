"""Actors of which a run has one, on the driver's node: a lost worker node takes none of them."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def start_beside_driver(kind: type, *arguments: object, max_concurrency: int = 1) -> Any:
    """Start an actor without CPUs of its own on this process's node.

    Anywhere else, a spot node that goes would end the whole run or forget what was counted.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_concurrency": max_concurrency}
    return ray.remote(**options)(kind).remote(*arguments)
