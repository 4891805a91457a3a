"""The settings of a reproduction. Imports nothing heavy, so that --help answers at once."""

from pydantic import Field

from s4v_core.config import Config


class ReproduceJob(Config):
    """Replay tables and figures of the paper, with intervals, through every part of this system."""

    study: tuple[str, ...] = ("table4",)
    """Study to run: table4, table5, table6, figure2, figure6, table2, stablellava-figure6, or all.
    May be repeated."""
    seeds: int = Field(5, ge=1)
    """Number of seeds of every arm."""
    first_seed: int = Field(1, ge=0)
    """First of these seeds; the others follow it."""
    output: str = "out/reproduce"
    """Folder of the study, on any URI. Running the same command again resumes it, and studies in
    one folder share what they have in common."""
    quick: bool = False
    """Run everything at sizes at which nothing is learned, to see that it runs."""
    world_seed: int | None = Field(None, ge=0)
    """Seed of the pictures, for a pilot; by default that of the reported studies."""
    cpus: int | None = Field(None, ge=1)
    """Cores that commands may keep busy together; by default all of this machine, or of the cluster
    that RAY_ADDRESS names."""
    plan: bool = False
    """Print the commands, their time, and what so many seeds can show; run nothing."""
    report: bool = False
    """Only write the report again from the stored scores."""
