"""Sharded checkpoints on any store, written while training goes on (torch.distributed.checkpoint).

A checkpoint is its folder with `manifest.json` in it, which is written last: a folder without one
does not exist. Any number of workers reads what any other number wrote.
"""

import json
import logging
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.training.worker.step import Step
from s4v_core.training.worker.world import World

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: Steps that are done; the next one has this number.
        digest: Of job and samples; no other run may go on from here.
        samples, tokens: Seen so far, real ones.
    """

    step: int
    digest: str
    samples: int
    tokens: int


def checkpoint_uri(output: str, step: int) -> str:
    return storage.join(output, FOLDER, f"step-{step:08d}")


def complete_checkpoints(output: str) -> list[Manifest]:
    """All that can be resumed from, oldest first."""
    folder = storage.join(output, FOLDER)
    if not storage.is_folder(folder):
        return []
    manifests = [f.uri for f in storage.list_files(folder) if storage.base_name(f.uri) == MANIFEST]
    return sorted((Manifest(**json.loads(storage.read(u))) for u in manifests), key=_step_of)


class Checkpoints:
    """Saves and restores model and optimiser of one worker, together with all others."""

    def __init__(self, output: str, keep: int, world: World) -> None:
        self._output, self._keep, self._world = output, keep, world
        self._pending: tuple[Manifest, Future[Any]] | None = None

    def restore(self, manifest: Manifest, step: Step, optimiser: torch.optim.Optimizer) -> None:
        """Bring model and optimiser to where they were."""
        state = _state(step, optimiser)
        uri = checkpoint_uri(self._output, manifest.step)
        dcp.load(state, storage_reader=FsspecReader(uri), process_group=self._world.saving)
        set_state_dict(
            step.model, optimiser, model_state_dict=state["model"], optim_state_dict=state["optim"]
        )

    def save(self, manifest: Manifest, step: Step, optimiser: torch.optim.Optimizer) -> None:
        """Copy the state and write it meanwhile; waits for the save before it.

        Raises:
            StorageError: The save before failed.
        """
        self.settle()
        uri = checkpoint_uri(self._output, manifest.step)
        try:
            future = dcp.async_save(
                _state(step, optimiser),
                storage_writer=FsspecWriter(uri),
                process_group=self._world.saving,
            )
        # Border to foreign code: what a store raises depends on the store, and torch's error for
        # all workers is a BaseException.
        except (Exception, CheckpointException) as error:
            raise StorageError(uri, _reason(error)) from error
        assert isinstance(future, Future), "the thread checkpointer gives one future"
        self._pending = (manifest, future)

    def poll(self) -> None:
        """Finish a save whose writing has ended; never waits.

        Raises:
            StorageError: It failed.
        """
        if self._pending and self._pending[1].done():
            self.settle()

    def settle(self) -> None:
        """Wait until the last save is durable.

        Raises:
            StorageError: It failed.
        """
        if self._pending is None:
            return
        manifest, future = self._pending
        self._pending = None
        uri = checkpoint_uri(self._output, manifest.step)
        try:
            future.result()
        # torch's error for all workers is a BaseException.
        except (Exception, CheckpointException) as error:
            raise StorageError(uri, _reason(error)) from error
        if self._world.leads:
            # Every worker's part is written when the leader's future is done.
            text = json.dumps(asdict(manifest), indent=2)
            storage.replace(storage.join(uri, MANIFEST), text.encode())
            self._prune()

    def _prune(self) -> None:
        for old in complete_checkpoints(self._output)[: -self._keep]:
            uri = checkpoint_uri(self._output, old.step)
            storage.remove(storage.join(uri, MANIFEST))  # first: half a checkpoint is none
            storage.remove(uri)


def _state(step: Step, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Of the inner model, so that names are those of the model and carry no wrapper."""
    model, optim = get_state_dict(step.model, optimiser)
    return {"model": model, "optim": optim}


def _step_of(manifest: Manifest) -> int:
    return manifest.step


def _reason(error: BaseException) -> str:
    """The first thing that went wrong; torch wraps it in one error for all workers."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    while error.__cause__ is not None:
        error = error.__cause__
    return f"the checkpoint could not be written: {type(error).__name__}: {error}"
