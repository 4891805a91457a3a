"""A reproduction from job to report: which studies, on how many cores, and what they came to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from s4v_core import storage
from s4v_core.errors import ConfigError
from s4v_core.flow.connection import share_cluster
from s4v_core.reproduction.demo_studies import STUDIES
from s4v_core.reproduction.forecast import describe_plan
from s4v_core.reproduction.job import ReproduceJob
from s4v_core.reproduction.records import StudyFolder
from s4v_core.reproduction.report import write_report
from s4v_core.reproduction.scheduler import Outcome, run_commands
from s4v_core.reproduction.sizes import FULL, QUICK, Sizes
from s4v_core.reproduction.study import Study, list_all
from s4v_core.reproduction.world import DemoWorld

_ALL = "all"
_CPUS_PER_CORE = 3
"""Logical CPUs of a local cluster for each core: passes read and decode in processes of their own,
and two of them must be able to run beside each other."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Studies with the folder that they are kept in."""

    job: ReproduceJob
    folder: StudyFolder
    world: DemoWorld
    studies: tuple[Study, ...]

    def describe(self) -> str:
        """The commands that it will run."""
        return describe_plan(self.folder, self.studies, self.job.seeds, self.job.cpus or _count())

    def run(self) -> Outcome:
        """Run the commands that are missing."""
        commands = list_all(self.studies)
        done = self.folder.list_done()
        if all(one.key in done for one in commands):
            return Outcome(len(commands), 0, {})
        address, cores = share_cluster((self.job.cpus or _count()) * _CPUS_PER_CORE)
        environment = {"RAY_ADDRESS": address}
        return run_commands(self.folder, commands, self.job.cpus or cores, environment)

    def report(self) -> str:
        """Write the report from the stored scores; returns its URI."""
        return write_report(self.folder, self.studies, self.world)


def open_reproduction(job: ReproduceJob) -> Reproduction:
    """The studies of a job.

    Raises:
        ConfigError: There is no such study, or something that it needs is missing.
    """
    job = job.replace(output=storage.absolute(job.output))
    sizes: Sizes = QUICK if job.quick else FULL
    if job.world_seed is not None:
        sizes = sizes.replace(world_seed=job.world_seed)
    world = DemoWorld(sizes, job.cpus or _count())
    seeds = range(job.first_seed, job.first_seed + job.seeds)
    studies = tuple(STUDIES[name](world, seeds) for name in _choose_names(job.study))
    return Reproduction(job, StudyFolder(job.output), world, studies)


def _choose_names(wanted: Sequence[str]) -> list[str]:
    names = dict.fromkeys(wanted)
    if _ALL in names:
        return list(STUDIES)
    if unknown := [name for name in names if name not in STUDIES]:
        allowed = ", ".join([*STUDIES, _ALL])
        raise ConfigError(f"study: found {unknown[0]!r}, allowed {allowed}")
    return list(names)


def _count() -> int:
    return os.cpu_count() or 1
