"""Joining a Ray cluster, or starting one on this machine, with enough CPUs to move."""

import logging
import os

import ray

from s4v_core.errors import ConfigError

log = logging.getLogger(__name__)

SPARE_CPUS = 3
"""Of a local cluster on a small machine, beyond what a job needs: reading goes on while both cores
decode. More only start more processes that share them: on two cores with eight instead of six, a
pass was a quarter slower."""


def start_workers_as_equals() -> None:
    """Of the Ray that is started next, workers have the priority of all others.

    By itself Ray takes 15 off it (`worker_niceness`). An engine on CPU then gives way to whatever
    wakes up, and the kernel takes the core that it fills for a free one.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")


def connect(needed_cpus: float, gpus: int) -> None:
    """Join the cluster of RAY_ADDRESS or of this machine; where there is none, start a local one.

    Raises:
        ConfigError: A local cluster is too small for the job. A joined one may still grow.
    """
    own = not ray.is_initialized() and _start_or_join(needed_cpus)
    have = ray.cluster_resources()
    cpus, present = have.get("CPU", 0), have.get("GPU", 0)
    if 0 < gpus < present:
        log.warning("engines on %d of %d GPUs; --engines %d takes all", gpus, present, present)
    if cpus >= needed_cpus and present >= gpus:
        return
    found = f"found {cpus:g} CPUs and {present:g} GPUs, needed {needed_cpus:g} and {gpus}"
    if own:
        ray.shutdown()
        raise ConfigError(f"cluster: {found}; lower --engines, or set --settings.device cpu")
    log.warning("waiting for nodes: %s", found)


def _start_or_join(needed_cpus: float) -> bool:
    """Returns whether the cluster is our own."""
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    # Says only that a local cluster has a token, which it makes and finds by itself.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # The core's own log of this process goes to the terminal; one line per actor says nothing.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address != "local":
        try:
            ray.init(address=address, **quiet)
            return False
        except ConnectionError:
            if "RAY_ADDRESS" in os.environ:
                raise ConfigError(f"RAY_ADDRESS: no cluster answers at {address}") from None
    start_workers_as_equals()
    ray.init(address="local", num_cpus=local_cpus(needed_cpus), include_dashboard=False, **quiet)
    return True


def local_cpus(needed_cpus: float) -> int:
    """Logical CPUs of a cluster that is started on this machine."""
    return max(os.cpu_count() or 1, int(needed_cpus) + SPARE_CPUS)
