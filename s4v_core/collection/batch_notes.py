"""OUTPUT/batches/<tag>.json: a note about each batch that was started, or was about to be."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from s4v_core import storage

FOLDER = "batches"


@dataclass(frozen=True, slots=True)
class BatchNote:
    """One batch.

    Attributes:
        tag: Our own name for it, which stands in its metadata.
        batch_id: The endpoint's name for it; None until it is known.
        names: Names of its requests; empty once it has ended.
        cost: The most that it may cost, in millionths of the currency.
        status: How it ended; None while it is open.
    """

    tag: str
    batch_id: str | None
    names: list[str]
    cost: int
    status: str | None = None

    def with_id(self, batch_id: str) -> "BatchNote":
        return replace(self, batch_id=batch_id)


@dataclass(frozen=True, slots=True)
class BatchNotes:
    """The notes of a run."""

    output: str

    def write(self, note: BatchNote) -> None:
        storage.replace_json(self._uri(note), asdict(note))

    def remove(self, note: BatchNote) -> None:
        storage.remove(self._uri(note))

    def close(self, note: BatchNote, status: str) -> None:
        """Note that a batch has ended and its answers are kept."""
        self.write(replace(note, names=[], status=status))

    def read_open(self) -> Iterator[BatchNote]:
        """Notes of batches that have not ended, the oldest first."""
        folder = storage.join(self.output, FOLDER)
        if not storage.is_folder(folder):
            return
        for file in sorted(storage.list_files(folder), key=lambda file: file.uri):
            note = BatchNote(**json.loads(storage.read(file.uri)))
            if note.status is None:
                yield note

    def _uri(self, note: BatchNote) -> str:
        return storage.join(self.output, FOLDER, f"{note.tag}.json")
