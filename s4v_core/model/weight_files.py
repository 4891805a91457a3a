"""Reads and writes checkpoints tensor by tensor, because one may be larger than memory."""

import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from s4v_core.errors import InputError, StorageError

_FILE_BYTES = 1 << 30
"""Size of a written file, and of the tensors that are held in memory while writing."""

_KINDS = (("model", "safetensors"), ("pytorch_model", "bin"))
"""Names and endings of a checkpoint's weight files, the preferred kind first."""

_OTHER_SAFETENSORS = ("adapter_model.safetensors", "mm_projector.safetensors")
"""Files of parts of a model, which may lie beside its weights."""

_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that is read from its file when it is needed.

    Attributes:
        shape: Its shape.
        dtype: Its type; None for types other than floating-point numbers of 16 to 64 bits.
        read: Reads it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    read: Callable[[], torch.Tensor]


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a checkpoint folder with its name, file by file.

    Raises:
        InputError: As `open_weights`.
    """
    for name, tensor in open_weights(folder).items():
        yield name, tensor.read()


def open_weights(folder: Path) -> dict[str, StoredTensor]:
    """Open all weight files of a checkpoint folder; safetensors are preferred to pickled ones.

    Raises:
        InputError: The folder holds no weights, a file is missing or damaged, or a tensor that
            the index names is in no file.
    """
    files = list_weight_files(folder)
    if not files:
        raise InputError(str(folder), "holds no weights (model*.safetensors, pytorch_model*.bin)")
    found: dict[str, StoredTensor] = {}
    for path in files:
        opened = open_file(path)
        if twice := found.keys() & opened.keys():
            raise InputError(str(path), f"holds {min(twice)}, which another file holds, too")
        found |= opened
    lost = sorted(_read_index(folder, files[0]).keys() - found.keys())
    if lost:
        raise InputError(
            str(folder), f"lacks {len(lost)} tensors that its index names, such as {lost[0]}"
        )
    return found


def list_weight_files(folder: Path) -> list[Path]:
    """List the weight files of a checkpoint folder; empty if there are none.

    Raises:
        InputError: A file that the index or the other files' names announce is missing.
    """
    for stem, ending in _KINDS:
        pattern = "*.safetensors" if ending == "safetensors" else f"{stem}*.bin"
        files = {path.name for path in folder.glob(pattern)} - set(_OTHER_SAFETENSORS)
        named = set(_read_index(folder, folder / f"{stem}.{ending}").values())
        if not files and not named:
            continue
        if missing := sorted((named | _list_announced(files)) - files):
            raise InputError(str(folder), f"lacks {', '.join(missing)}; fetch the checkpoint again")
        if named and (strange := sorted(files - named)):
            raise InputError(
                str(folder),
                f"holds {strange[0]}, which its index does not name; remove one of both",
            )
        return [folder / name for name in sorted(files)]
    return []


def _read_index(folder: Path, file: Path) -> dict[str, str]:
    """The file of each tensor, from the index of files of this kind; empty without an index."""
    stem = dict((ending, stem) for stem, ending in _KINDS)[file.suffix[1:]]
    path = folder / f"{stem}{file.suffix}.index.json"
    if not path.exists():
        return {}
    try:
        found: dict[str, str] = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), f"is no index of weight files ({error})") from None
    return found


def _list_announced(names: Iterable[str]) -> set[str]:
    """All file names of the series that the given names belong to (x-00001-of-00003.bin)."""
    announced = set()
    for name in names:
        if match := re.fullmatch(r"(.+-)(\d+)-of-(\d+)(\.\w+)", name):
            start, number, count, ending = match.groups()
            for one in range(1, int(count) + 1):
                announced.add(f"{start}{one:0{len(number)}}-of-{count}{ending}")
    return announced


def open_file(path: Path) -> dict[str, StoredTensor]:
    """Open one weight file: safetensors, or a pickled dict of tensors, which runs no code.

    Raises:
        InputError: It is no such file, or it is damaged.
    """
    _refuse_pointer(path)
    try:
        return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
    except pickle.UnpicklingError:
        raise InputError(
            str(path), "holds other objects than tensors, which weights_only never runs"
        ) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, KeyError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InputError(str(path), f"is cut short or damaged ({reason}); fetch it again") from None


def _refuse_pointer(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if start.startswith(b"version https://git-lfs"):
        raise InputError(str(path), "is a pointer of Git LFS; fetch the file (git lfs pull)")
    if not start:
        raise InputError(str(path), "is empty; fetch it again")


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    found = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            part = file.get_slice(name)
            dtype = _FLOATS.get(part.get_dtype())
            read = partial(_read_safetensors, path, name)
            found[name] = StoredTensor(tuple(part.get_shape()), dtype, read)
    return found


def _read_safetensors(path: Path, name: str) -> torch.Tensor:
    # A copy, and the file is opened for each tensor, so that no pages of it stay mapped.
    with safe_open(path, "pt") as file:
        return file.get_tensor(name).clone()


def _open_pickle(path: Path) -> dict[str, StoredTensor]:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    tensors = _load_pickle(path, is_zip)
    if not isinstance(tensors, dict):
        raise InputError(str(path), f"holds {type(tensors).__name__}, allowed a dict of tensors")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise InputError(str(path), f"{name}: found {kind}, allowed a dict of tensors alone")
    return {name: _describe(path, name, tensor, is_zip) for name, tensor in tensors.items()}


def _describe(path: Path, name: str, tensor: torch.Tensor, is_zip: bool) -> StoredTensor:
    # As for safetensors; but a file from before PyTorch 1.6 cannot be read in parts.
    read = partial(_read_pickle, path, name) if is_zip else tensor.clone
    dtype = tensor.dtype if tensor.dtype in _FLOATS.values() else None
    return StoredTensor(tuple(tensor.shape), dtype, read)


def _read_pickle(path: Path, name: str) -> torch.Tensor:
    found: torch.Tensor = _load_pickle(path, is_zip=True)[name].clone()
    return found


def _load_pickle(path: Path, is_zip: bool) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _own_memory(tensor: torch.Tensor, others: Iterable[torch.Tensor]) -> torch.Tensor:
    """The tensor, or a copy where it shares memory, which safetensors files cannot express."""
    storage = tensor.untyped_storage()
    shared = any(storage.data_ptr() == other.untyped_storage().data_ptr() for other in others)
    is_part = storage.nbytes() != tensor.numel() * tensor.element_size()
    return tensor.clone() if shared or is_part else tensor


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
        self._held[name] = _own_memory(tensor.contiguous(), self._held.values())
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
        try:
            save_file(self._held, path, {"format": "pt"})
        except SafetensorError as error:
            raise StorageError(str(path), str(error)) from None
        self._files.append((path, list(self._held)))
        self._held, self._held_bytes = {}, 0
