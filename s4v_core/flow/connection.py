"""Joining a Ray cluster, or starting one on this machine, with enough CPUs to move."""

import logging
import os

import ray
from ray._private.services import find_bootstrap_address

from s4v_core.errors import ConfigError

log = logging.getLogger(__name__)

_SPARE_CPUS = 3
"""Logical CPUs of a local cluster on a small machine beyond what a job needs, so that reading goes
on while both cores decode. More only start more processes that share them: on two cores with eight
instead of six, a pass was a quarter slower."""


_STARTS = 5
"""Attempts to start a local cluster."""


def set_normal_worker_priority() -> None:
    """Start Ray's workers at normal priority (Ray renices them by 15).

    A niced engine on a CPU gives way to whatever wakes up, and the kernel takes the core that it
    fills for a free one. Holds for the Ray that is started next.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")


def connect(needed_cpus: float, gpus: int, gpus_per_node: int = 1) -> None:
    """Join the cluster of RAY_ADDRESS, or the one that `ray start` started on this machine; without
    either, start a local one for this process alone.

    Args:
        needed_cpus: CPUs with which the job can move.
        gpus: GPUs of all engines together.
        gpus_per_node: GPUs that one engine needs on the same node.

    Raises:
        ConfigError: A local cluster is too small for the job, while a joined one may still grow; or
            no node of it has the GPUs of one engine.
    """
    is_own = not ray.is_initialized() and _join_or_start(needed_cpus)
    have = ray.cluster_resources()
    cpus, present = have.get("CPU", 0), have.get("GPU", 0)
    if 0 < gpus < present:
        log.warning("engines on %d of %d GPUs; --engines %d takes all", gpus, present, present)
    if cpus >= needed_cpus and present >= gpus:
        if gpus:
            _refuse_small_nodes(gpus_per_node)
        return
    found = f"found {cpus:g} CPUs and {present:g} GPUs, needed {needed_cpus:g} and {gpus}"
    if is_own:
        ray.shutdown()
        raise ConfigError(f"cluster: {found}; lower --engines, or set --settings.device cpu")
    if gpus:
        _refuse_small_nodes(gpus_per_node)
    log.warning("waiting for nodes: %s", found)


def share_cluster(needed_cpus: float) -> tuple[str, int]:
    """Join or start a cluster for several processes, which ends with this one if it started it.

    Returns:
        Its address, for their RAY_ADDRESS, and the number of cores that they share.
    """
    is_joined = _find_cluster() is not None
    connect(needed_cpus, 0)
    address = ray.get_runtime_context().gcs_address
    cores = int(ray.cluster_resources().get("CPU", 1)) if is_joined else os.cpu_count() or 1
    return address, cores


def _refuse_small_nodes(gpus_per_node: int) -> None:
    """Refuse an engine that fits on no GPU node, neither of those that are there nor of those that
    an autoscaler may start. Where there is no GPU node yet, they are still to come."""
    found = [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]]
    largest = int(max(found, default=0))
    if largest == 0 or max(largest, _find_largest_to_come()) >= gpus_per_node:
        return
    raise ConfigError(
        f"cluster: no node has {gpus_per_node} GPUs, the largest has {largest}; lower "
        "--settings.gpus-per-engine, and spread an engine over several nodes with "
        "--settings.nodes-per-engine"
    )


def _find_largest_to_come() -> int:
    """GPUs of the largest node that the cluster's autoscaler may start; 0 without an autoscaler."""
    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return max((int(group.resources.get("GPU", 0)) for group in groups), default=0)


def _join_or_start(needed_cpus: float) -> bool:
    """Returns whether the cluster is our own."""
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    # This logger only says that a local cluster has a token, which it makes and finds by itself.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # The core's own log of this process goes to the terminal: one line per actor, which says
    # nothing.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address := _find_cluster():
        try:
            ray.init(address=address, **quiet)
            return False
        except ConnectionError:
            if os.environ.get("RAY_ADDRESS"):
                raise ConfigError(f"RAY_ADDRESS: no cluster answers at {address}") from None
    set_normal_worker_priority()
    for attempt in range(1, _STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=local_cpus(needed_cpus),
                include_dashboard=False,
                **quiet,
            )
            return True
        # Ray raises a bare Exception if a busy machine does not start it within 30 s.
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == _STARTS:
                raise
            log.warning("Ray did not start within 30 s, as on a busy machine; starting it again")
    return True


def _find_cluster() -> str | None:
    """The address of the cluster to join, if there is one.

    Ray's own address="auto" also joins the private cluster of any other process on the machine, and
    a run there dies when that process ends. `ray start` leaves its address in a file; a private
    cluster does not.
    """
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "local":
        return None
    if address != "auto":
        return address
    found: str | None = find_bootstrap_address(None)
    return found


def local_cpus(needed_cpus: float) -> int:
    """Logical CPUs of a cluster that is started on this machine."""
    return max(os.cpu_count() or 1, int(needed_cpus) + _SPARE_CPUS)
