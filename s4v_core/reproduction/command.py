"""A command of a study: a script of ray_jobs with its arguments, named by what it is.

Two studies, or two arms of one, that need the same command share its output.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from s4v_core import storage

VERSION = 2
"""Version of what commands mean; raised when the same command would come to other results."""

OWN = "{own}"
"""Stands for a command's own output folder in its arguments."""

_KEY_LETTERS = 16


@dataclass(frozen=True, slots=True)
class Output:
    """A place in the output of another command, as an argument."""

    command: "Command"
    path: str = ""


Argument = str | Output


@dataclass(frozen=True, slots=True)
class Command:
    """One run of a script.

    Attributes:
        label: What it is for, in a few words; no part of its identity.
        script: File name in ray_jobs.
        arguments: Its arguments, in which OWN stands for its output folder.
        expected_s: Seconds that it is expected to take.
        cpus: CPUs that it keeps busy.
        free: Arguments that change nothing of the result, such as a number of workers.
        key: Digest of the script, its arguments, and the keys of the commands that these name.
    """

    label: str = field(compare=False)
    script: str
    arguments: tuple[Argument, ...]
    expected_s: float = field(compare=False)
    cpus: int = field(default=1, compare=False)
    free: tuple[str, ...] = field(default=(), compare=False)
    key: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Once: a schedule asks for the keys of hundreds of commands twice a second.
        object.__setattr__(self, "key", self._build_key())

    def _build_key(self) -> str:
        parts = [
            ["output", one.command.key, one.path] if isinstance(one, Output) else one
            for one in self.arguments
        ]
        text = json.dumps([VERSION, self.script, parts])
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LETTERS]

    @property
    def resumes(self) -> bool:
        """Whether it goes on with what an earlier try left; it refuses such files otherwise."""
        return self.script != "dataset.py"

    @property
    def folder(self) -> str:
        """Name of its output folder."""
        return f"{self.script.removesuffix('.py')}-{self.key}"

    @property
    def needs(self) -> list["Command"]:
        """The commands whose output it reads, each once."""
        needed = [one.command for one in self.arguments if isinstance(one, Output)]
        return list({one.key: one for one in needed}.values())

    def locate(self, runs: str) -> str:
        """Its output below the folder of all runs."""
        return storage.join(runs, self.folder)

    def fill_in(self, runs: str) -> list[str]:
        """Its arguments with the places of all outputs."""
        own = self.locate(runs)
        found = [
            storage.join(one.command.locate(runs), one.path).rstrip("/")
            if isinstance(one, Output)
            else one.replace(OWN, own)
            for one in self.arguments
        ]
        return [*found, *self.free]


def list_commands(wanted: Iterable[Command]) -> list[Command]:
    """The wanted commands and all that they need, each once and after what it needs."""
    found: dict[str, Command] = {}

    def add(command: Command) -> None:
        if command.key in found:
            return
        for one in command.needs:
            add(one)
        found[command.key] = command

    for command in wanted:
        add(command)
    return list(found.values())
