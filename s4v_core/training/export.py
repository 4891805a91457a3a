"""Exports a checkpoint of a run as the folder that transformers and vLLM load.

It works tensor by tensor, in one process, without a GPU: a 7B model needs about two GiB of memory.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from s4v_core import storage
from s4v_core.model.weight_files import WeightWriter
from s4v_core.training.adapter_files import merge_adapters
from s4v_core.training.families.family import Family
from s4v_core.training.lora import Lora
from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.checkpoints import Manifest, checkpoint_uri

MODEL = "model"
"""Folder of the exported model below the output of a run."""

_READ_BYTES = 512 << 20
"""Bytes of fp32 weights that are read at a time."""

_PREFIX = "model."


def export_model(
    output: str,
    manifest: Manifest,
    start: Path,
    family: Family,
    job: TrainStage,
    card: str,
    target: str | None = None,
) -> str:
    """Write the model of a checkpoint in bf16. On a disk it appears whole; in a store its config
    appears last.

    Args:
        start: Folder of the model that the run started from, for its config and tokenizer.
        family: Family of the start model.
        job: The stage; where it trains adapters, they are added to the start model.
        card: Text of README.md.
        target: Folder of the model; by default `output`/model.

    Returns:
        The URI of the model.
    """
    target = target or storage.join(output, MODEL)
    is_local = storage.is_local(target)
    parent = Path(storage.parent(target)) if is_local else Path(tempfile.mkdtemp())
    folder = parent / f"{MODEL}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    writer = WeightWriter(folder)
    tensors = _read_weights(checkpoint_uri(output, manifest.step), start, family, job.lora)
    for name, tensor in tensors:
        writer.add(name, tensor.to(torch.bfloat16))
    family.write_settings(folder, start, job)
    (folder / "README.md").write_text(card)
    writer.close()
    if is_local:
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    else:
        _upload(folder, target)
        shutil.rmtree(parent)
    return target


def _read_weights(
    uri: str, start: Path, family: Family, lora: Lora
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of the whole model with its name on disk."""
    if lora.rank:
        adapters = dict(read_checkpoint(uri))
        yield from merge_adapters(start, adapters, lora.scale, family.name_on_disk)
        return
    for name, tensor in read_checkpoint(uri):
        yield family.name_on_disk(name), tensor


def read_checkpoint(uri: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Read every weight of a checkpoint, about _READ_BYTES at a time."""
    reader = FsspecReader(uri)
    found: dict[str, Any] = reader.read_metadata().state_dict_metadata
    # Keys of the optimiser's tensors begin with `optim.` instead.
    weights = {
        name.removeprefix(_PREFIX): metadata
        for name, metadata in found.items()
        if name.startswith(_PREFIX) and isinstance(metadata, TensorStorageMetadata)
    }
    part: dict[str, torch.Tensor] = {}
    held = 0
    for name, metadata in weights.items():
        part[name] = torch.empty(metadata.size, dtype=metadata.properties.dtype)
        held += part[name].nbytes
        if held >= _READ_BYTES or name == next(reversed(weights)):
            with warnings.catch_warnings():  # torch warns of no_dist, which is intended
                warnings.simplefilter("ignore", UserWarning)
                dcp.load({_PREFIX[:-1]: part}, storage_reader=FsspecReader(uri), no_dist=True)
            yield from part.items()
            part, held = {}, 0


def _upload(folder: Path, target: str) -> None:
    files = sorted(folder.iterdir(), key=lambda path: path.name == "config.json")
    for path in files:  # the config comes last: without it the folder is no checkpoint
        with path.open("rb") as file:
            storage.upload(file, storage.join(target, path.name))
