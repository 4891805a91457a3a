"""A checkpoint of a run -> the folder that transformers and vLLM load.

Tensor by tensor, in one process, without a GPU: a 7B model passes through in about two GiB.
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
from transformers import AutoTokenizer, LlavaConfig

from s4v_core import storage
from s4v_core.model.names import disk_name_of_memory
from s4v_core.model.processor import build_processor
from s4v_core.model.weight_files import WeightWriter
from s4v_core.training.worker.checkpoints import Manifest, checkpoint_uri

MODEL = "model"
"""Folder of the exported model below the output of a run."""

READ_BYTES = 512 << 20
"""Weights in fp32 that are read at a time."""

PREFIX = "model."


def export_model(output: str, manifest: Manifest, start: Path, pad: bool, card: str) -> str:
    """Write the model of a checkpoint to `output`/model, in bf16; it appears whole.

    Args:
        start: Folder that the run started from: its config and tokenizer.
        pad: How the processor frames images (`image_mode`).
        card: Text of README.md.

    Returns:
        Where it is.
    """
    target = storage.join(output, MODEL)
    local = storage.is_local(target)
    parent = Path(storage.parent(target)) if local else Path(tempfile.mkdtemp())
    folder = parent / f"{MODEL}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    writer = WeightWriter(folder)
    for name, tensor in _tensors(checkpoint_uri(output, manifest.step)):
        writer.add(disk_name_of_memory(name), tensor.to(torch.bfloat16))
    config = LlavaConfig.from_pretrained(start)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = config.text_config.dtype = config.vision_config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(start, trust_remote_code=False)
    vision = config.vision_config
    build_processor(tokenizer, vision.image_size, vision.patch_size, pad).save_pretrained(folder)
    for name in ("generation_config.json", "tokenizer.model", "original_config.json"):
        if (start / name).exists():
            shutil.copy(start / name, folder / name)
    (folder / "README.md").write_text(card)
    writer.close()
    if local:
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    else:
        _upload(folder, target)
        shutil.rmtree(parent)
    return target


def _tensors(uri: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of a checkpoint, about READ_BYTES at a time."""
    reader = FsspecReader(uri)
    found: dict[str, Any] = reader.read_metadata().state_dict_metadata
    # The whole key of a weight; those of the optimiser begin with `optim.`
    weights = {
        name.removeprefix(PREFIX): about
        for name, about in found.items()
        if name.startswith(PREFIX) and isinstance(about, TensorStorageMetadata)
    }
    part: dict[str, torch.Tensor] = {}
    held = 0
    for name, about in weights.items():
        part[name] = torch.empty(about.size, dtype=about.properties.dtype)
        held += part[name].nbytes
        if held >= READ_BYTES or name == next(reversed(weights)):
            with warnings.catch_warnings():  # that no_dist is meant
                warnings.simplefilter("ignore", UserWarning)
                dcp.load({PREFIX[:-1]: part}, storage_reader=FsspecReader(uri), no_dist=True)
            yield from part.items()
            part, held = {}, 0


def _upload(folder: Path, target: str) -> None:
    files = sorted(folder.iterdir(), key=lambda path: path.name == "config.json")
    for path in files:  # the config last: without it the folder is no checkpoint
        with path.open("rb") as file:
            storage.upload(file, storage.join(target, path.name))
