"""Sharded checkpoints on any store, written in the background by torch.distributed.checkpoint.

A checkpoint is a folder with a `manifest.json`, which is written last: a folder without one is
not a checkpoint. Any number of workers can read what any other number of workers wrote.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.training.evaluation_records import mark_gone
from s4v_core.training.worker.checkpoint_files import PatientWriter
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.staging import build_stager
from s4v_core.training.worker.world import World

_FOLDER = "checkpoints"
_MANIFEST = "manifest.json"
_WRITERS = 4
"""Threads that write a worker's part, each a file of its own; a store gives one stream a fraction
of its bandwidth."""

_NO_ROOM = "the disk had no room for its checkpoint beside the next one"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a checkpoint's manifest.

    Attributes:
        step: Number of steps that are done, which is also the number of the next step.
        digest: Digest of the run's settings and samples.
        samples: Samples trained on so far.
        tokens: Tokens trained on so far, without padding.
        lost: Samples so far that taught nothing, because their image could not be read.
    """

    step: int
    digest: str
    samples: int
    tokens: int
    lost: int = 0


def checkpoint_uri(output: str, step: int) -> str:
    return storage.join(output, _FOLDER, f"step-{step:08d}")


def list_checkpoints(output: str) -> list[Manifest]:
    """The manifests of all complete checkpoints of a run, oldest first. Those that the run removes
    in the meantime are left out."""
    folder = storage.join(output, _FOLDER)
    if not storage.is_folder(folder):
        return []
    files = storage.list_files(folder)
    uris = [file.uri for file in files if storage.base_name(file.uri) == _MANIFEST]
    manifests = []
    for uri in uris:
        with contextlib.suppress(FileNotFoundError):
            manifests.append(Manifest(**json.loads(storage.read(uri))))
    return sorted(manifests, key=lambda manifest: manifest.step)


class Checkpoints:
    """Saves and restores the model and the optimiser of one worker, together with all others.

    Args:
        output: URI of the run's folder.
        keep: Number of newest checkpoints that are kept.
        patience_s: Seconds to wait for a store that does not answer while a checkpoint is written.
        learning_only: Whether checkpoints hold only the weights that learn. The others are then
            those of the start model.
        is_awaited: Whether the checkpoint of a step is needed although it is an old one.
    """

    def __init__(
        self,
        output: str,
        keep: int,
        world: World,
        patience_s: float,
        learning_only: bool = False,
        is_awaited: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self._output, self._keep, self._world = output, keep, world
        self._is_awaited = is_awaited
        self._patience_s = patience_s
        self._options = StateDictOptions(
            ignore_frozen_params=learning_only, strict=not learning_only
        )
        self._stager = build_stager(world.device)
        self._pending: tuple[Manifest, Future[Any]] | None = None

    def restore_newest(
        self, module: LossModule, optimiser: torch.optim.Optimizer
    ) -> Manifest | None:
        """Load the newest checkpoint into model and optimiser; returns its manifest, or None if
        the run has no checkpoint.

        Raises:
            StorageError: It cannot be read.
        """
        found = list_checkpoints(self._output)
        if not found:
            return None
        newest = found[-1]
        state, groups = self._read_state(module, optimiser)
        uri = checkpoint_uri(self._output, newest.step)
        try:
            dcp.load(state, storage_reader=FsspecReader(uri), process_group=self._world.saving)
        except (Exception, CheckpointException) as error:
            raise _translate(uri, "read", error) from error
        set_state_dict(
            module.model,
            optimiser,
            model_state_dict=state["model"],
            optim_state_dict=state["optim"] | {"param_groups": groups},
            options=self._options,
        )
        return newest

    def save(
        self, manifest: Manifest, module: LossModule, optimiser: torch.optim.Optimizer
    ) -> None:
        """Copy the state and write it in the background; waits for the previous save first.

        Raises:
            StorageError: The previous save failed, or this one cannot begin.
        """
        self.wait_until_durable()
        uri = checkpoint_uri(self._output, manifest.step)
        try:
            future = dcp.async_save(
                self._read_state(module, optimiser)[0],
                storage_writer=PatientWriter(uri, self._patience_s, _WRITERS),
                process_group=self._world.saving,
                async_stager=self._stager,
            )
        # Border to foreign code: what a store raises depends on the store, and torch's error for
        # all workers is a BaseException.
        except (Exception, CheckpointException) as error:
            raise _translate(uri, "written", error) from error
        assert isinstance(future, Future), "the thread checkpointer gives one future"
        self._pending = (manifest, future)

    def poll(self) -> None:
        """Complete the pending save if its writing has ended; never waits.

        Raises:
            StorageError: The save failed.
        """
        if self._pending and self._pending[1].done():
            self.wait_until_durable()

    def wait_until_durable(self) -> None:
        """Wait until the pending save is durable, if there is one.

        Raises:
            StorageError: The save failed.
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
            raise _translate(uri, "written", error) from error
        if self._world.is_leader:
            # Every worker's part is written when the leader's future is done.
            text = json.dumps(asdict(manifest), indent=2)
            storage.replace(storage.join(uri, _MANIFEST), text.encode())
            prune(self._output, self._keep, self._is_awaited)

    def _read_state(
        self, module: LossModule, optimiser: torch.optim.Optimizer
    ) -> tuple[dict[str, Any], Any]:
        """The state of the inner model and its optimiser, so that names carry no wrapper's prefix;
        and the optimiser's groups. They are in no checkpoint, because they follow from the job: how
        parameters are grouped may change."""
        model, optim = get_state_dict(module.model, optimiser, options=self._options)
        return {"model": model, "optim": {"state": optim["state"]}}, optim["param_groups"]


def prune(output: str, keep: int, is_awaited: Callable[[int], bool]) -> None:
    """Remove all checkpoints but the newest ones and those that are awaited; these, too, where the
    disk has no room for one more.

    Args:
        keep: Number of newest checkpoints that are kept.
        is_awaited: Whether somebody still needs the checkpoint of a step.
    """
    found = list_checkpoints(output)
    awaited = []
    for old in found[:-keep]:
        if is_awaited(old.step):
            awaited.append(old)
        else:
            _remove(output, old.step)
    for old in awaited:
        if _has_room(output, found[-1].step):
            return
        _log.warning("the checkpoint of step %d is removed unevaluated: %s", old.step, _NO_ROOM)
        mark_gone(output, old.step, _NO_ROOM)
        _remove(output, old.step)


def _remove(output: str, step: int) -> None:
    uri = checkpoint_uri(output, step)
    # The manifest first: a folder that is half removed is then no checkpoint any more.
    storage.remove(storage.join(uri, _MANIFEST))
    storage.remove(uri)


def _has_room(output: str, step: int) -> bool:
    """Whether a checkpoint of the size of this one fits beside it; a store always has room."""
    if not storage.is_local(output):
        return True
    files = storage.list_files(checkpoint_uri(output, step))
    return shutil.disk_usage(output).free >= sum(file.size for file in files)


def _translate(uri: str, doing: str, error: BaseException) -> StorageError:
    """The first cause as one of our errors; torch wraps it in one error for all workers."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    while error.__cause__ is not None and not isinstance(error, StorageError):
        error = error.__cause__
    kind = storage.UnreachableError if isinstance(error, storage.UnreachableError) else StorageError
    cause = error.problem if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
    return kind(uri, f"the checkpoint could not be {doing}: {cause}")
