"""The records of a study's commands: a small file for each one that is done."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from s4v_core import storage
from s4v_core.reproduction.command import Command

_DONE = "done"
_RUNS = "runs"
_LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended well.

    Attributes:
        seconds: Duration of the try that ended well.
        samples, tokens: What a training stage learned from; 0 of any other command.
    """

    key: str
    label: str
    script: str
    seconds: float
    samples: int
    tokens: int


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The places below the output of a study."""

    output: str

    @property
    def runs(self) -> str:
        """Folder with the outputs of commands."""
        return storage.join(self.output, _RUNS)

    def find_log(self, command: Command) -> str:
        """The output of a command at its last try."""
        return storage.join(self.output, _LOGS, f"{command.folder}.txt")

    def list_done(self) -> dict[str, Done]:
        """Commands that are done, by their key."""
        folder = storage.join(self.output, _DONE)
        if not storage.is_folder(folder):
            return {}
        read = (json.loads(storage.read(file.uri)) for file in storage.list_files(folder))
        return {one["key"]: Done(**one) for one in read}

    def record(self, command: Command, seconds: float) -> Done:
        """Note that a command is done, for good."""
        samples, tokens = self._count_lessons(command)
        done = Done(command.key, command.label, command.script, round(seconds, 1), samples, tokens)
        place = storage.join(self.output, _DONE, f"{command.key}.json")
        storage.create(place, json.dumps(asdict(done), indent=2).encode())
        return done

    def _count_lessons(self, command: Command) -> tuple[int, int]:
        """Samples and tokens of a training stage, from the metrics that it leaves."""
        metrics = storage.join(command.locate(self.runs), "metrics.jsonl")
        if storage.stat(metrics) is None:
            return 0, 0
        steps = [json.loads(line) for line in storage.read(metrics).splitlines() if line.strip()]
        return sum(one["samples"] for one in steps), sum(one["tokens"] for one in steps)

    def read_json(self, command: Command, path: str) -> Any:
        """A JSON file of a command's output."""
        return json.loads(storage.read(storage.join(command.locate(self.runs), path)))
