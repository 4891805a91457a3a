"""Reads and writes checkpoints tensor by tensor, because one may be larger than memory."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from s4v_core.errors import InputError

_FILE_BYTES = 1 << 30
"""Size of a written file, and of the tensors that are held in memory while writing."""


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a checkpoint folder with its name, file by file.

    Reads safetensors files if there are any, else pickled `.bin` files with `weights_only=True`.

    Raises:
        InputError: The folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield name, file.get_tensor(name)
    if files:
        return
    pickled = sorted(folder.glob("pytorch_model*.bin")) or sorted(folder.glob("*.bin"))
    if not pickled:
        raise InputError(str(folder), "holds no weights (*.safetensors or *.bin)")
    for path in pickled:
        yield from torch.load(path, map_location="cpu", weights_only=True, mmap=True).items()


class WeightWriter:
    """Writes safetensors files of about `file_bytes` with an index; a small model is one file."""

    def __init__(self, folder: Path, file_bytes: int = _FILE_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._limit = folder, file_bytes
        self._held: dict[str, torch.Tensor] = {}
        self._held_bytes = 0
        self._files: list[tuple[Path, list[str]]] = []
        self._total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add one tensor; it is written when a file is full."""
        size = tensor.numel() * tensor.element_size()
        if self._held and self._held_bytes + size > self._limit:
            self._flush()
        self._held[name] = tensor.contiguous()
        self._held_bytes += size
        self._total += size

    def close(self) -> None:
        """Write the remaining tensors and then the index, which completes the checkpoint."""
        self._flush()
        count = len(self._files)
        places: dict[str, str] = {}
        for number, (path, names) in enumerate(self._files, 1):
            final = f"model-{number:05d}-of-{count:05d}.safetensors"
            if count == 1:
                final = "model.safetensors"
            path.replace(self._folder / final)
            places |= dict.fromkeys(names, final)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": places}
            text = json.dumps(index, indent=2)
            (self._folder / "model.safetensors.index.json").write_text(text)

    def _flush(self) -> None:
        if not self._held:
            return
        path = self._folder / f"part-{len(self._files):05d}.partial"
        save_file(self._held, path, {"format": "pt"})
        self._files.append((path, list(self._held)))
        self._held, self._held_bytes = {}, 0
