"""Answers that are paid for, each durable before anything else happens to it.

A unit's file comes when all of its rows are there, and a worker can die before that. Until then
each answer lies in a file of its own, under a name that follows from its request: whoever works on
the unit next finds it, and pays only for what is missing. Once the unit is durable, its answers are
in its rows, and the files go.
"""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import lru_cache

from s4v_core import storage
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig

FOLDER = "answers"
_UNIT = re.compile(r"unit-(\d{6,})/([0-9a-f]{32})\.json$")


@dataclass(frozen=True, slots=True)
class PaidAnswer:
    """An answer and its price in millionths of the currency."""

    answer: Generation
    cost: int

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "PaidAnswer":
        found = json.loads(data)
        return cls(Generation(**found["answer"]), found["cost"])


@dataclass(frozen=True, slots=True)
class AnswerStore:
    """The answers of a run's unfinished units. Small and picklable.

    Attributes:
        output: Folder of the run.
        reading: Changes with every process, so that no worker remembers a listing of an earlier
            one.
    """

    output: str
    reading: str

    def find(self, unit: int, key: str) -> PaidAnswer | None:
        """The answer to a request, if an earlier process has paid for it."""
        if key not in _list_keys(self.output, unit, self.reading):
            return None
        with storage.patience(storage.UNIT_PATIENCE_S):
            return self.read(unit, key)

    def read(self, unit: int, key: str) -> PaidAnswer | None:
        try:
            return PaidAnswer.from_json(storage.read(self._uri(unit, key)))
        except FileNotFoundError:  # another process has finished the unit
            return None

    def keep(self, unit: int, key: str, paid: PaidAnswer) -> None:
        """Make an answer durable.

        Raises:
            StorageError: It is not.
        """
        with storage.patience(storage.UNIT_PATIENCE_S):
            storage.create(self._uri(unit, key), paid.to_json())

    def list_all(self) -> dict[int, set[str]]:
        """Keys of the stored answers, by unit: one listing."""
        folder = storage.join(self.output, FOLDER)
        found: dict[int, set[str]] = {}
        if storage.is_folder(folder):
            for file in storage.list_files(folder):
                if match := _UNIT.search(file.uri):
                    found.setdefault(int(match[1]), set()).add(match[2])
        return found

    def sum_costs(self, units: Collection[int]) -> int:
        """Price of the stored answers of some units."""
        wanted = {unit: keys for unit, keys in self.list_all().items() if unit in units}
        read = (self.read(unit, key) for unit, keys in wanted.items() for key in keys)
        return sum(paid.cost for paid in read if paid)

    def forget(self, units: Collection[int]) -> None:
        """Delete the answers of units that are durable."""
        for unit in self.list_all():
            if unit in units:
                storage.remove(storage.join(self.output, FOLDER, f"unit-{unit:06d}"))

    def _uri(self, unit: int, key: str) -> str:
        return storage.join(self.output, FOLDER, f"unit-{unit:06d}", f"{key}.json")


@lru_cache(maxsize=64)
def _list_keys(output: str, unit: int, reading: str) -> frozenset[str]:
    folder = storage.join(output, FOLDER, f"unit-{unit:06d}")
    with storage.patience(storage.UNIT_PATIENCE_S):
        if not storage.is_folder(folder):
            return frozenset()
        found = (_UNIT.search(file.uri) for file in storage.list_files(folder))
        return frozenset(match[2] for match in found if match)


def make_key(request: Request, sampling: SamplingConfig) -> str:
    """A name for the answer to a request."""
    asked = (request.key, request.content, request.prompt, sampling.model_dump_json())
    return hashlib.sha256(json.dumps(asked).encode("utf-8", "surrogatepass")).hexdigest()[:32]
