"""Finds the folder of a text-to-image pipeline: here, in a store, or on the hub.

A pipeline of diffusers is a folder of folders, one for each part. Nothing of it is ever executed:
weights are safetensors, and parts come from packages that are known.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from s4v_core import storage
from s4v_core.checkpoints import fingerprint, is_hub_id, is_uri, split_revision
from s4v_core.environment import find_scratch_folder
from s4v_core.errors import ConfigError, StorageError
from s4v_core.storage import StoredFile

INDEX = "model_index.json"
"""File that names the parts of a pipeline."""

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_ENDINGS = tuple(pattern[1:] for pattern in _FILES)
_CACHE = "pipelines"
_ADVICE = "name the folder of a text-to-image pipeline of diffusers"


def locate_pipeline(model: str, revision: str | None = None) -> tuple[Path, str]:
    """Find a pipeline, fetch its files to this node if needed, and return folder and revision.

    Args:
        model: Folder, URI, or hub id; org/name@revision names a branch, tag or commit.
        revision: Expected revision; None accepts any.

    Raises:
        ConfigError: There is no such pipeline, or it has another revision.
        UnreachableError: Its store does not answer.
    """
    folder, found = _find_folder(model, revision)
    if not (folder / INDEX).is_file():
        raise ConfigError(f"painter: {model} holds no {INDEX}; {_ADVICE}")
    if not any(folder.glob("*/*.safetensors")):
        raise ConfigError(
            f"painter: {model} holds no weights as safetensors, and no others are read"
        )
    if revision not in (None, found):
        raise ConfigError(
            f"painter: {model} was replaced during the run (found {found}, expected {revision}); "
            "start a new run, with another --output"
        )
    return folder, found


def read_parts(folder: Path) -> dict[str, tuple[str, str]]:
    """Package and class of each part of a pipeline that has any.

    Raises:
        ConfigError: Its index is damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / INDEX).read_text())
    except ValueError as error:
        raise ConfigError(f"painter: {folder / INDEX} is no JSON: {error}") from None
    pairs = {name: value for name, value in found.items() if isinstance(value, list)}
    return {
        name: (str(pair[0]), str(pair[1]))
        for name, pair in pairs.items()
        if len(pair) == 2 and pair[0] is not None
    }


def find_variant(folder: Path) -> str | None:
    """The variant of a folder whose weights are stored as one alone (`model.fp16.safetensors`)."""
    names = [path.name for path in folder.glob("*/*.safetensors")]
    variants = {"fp16": [name for name in names if ".fp16" in name]}
    return next((v for v, own in variants.items() if own and len(own) == len(names)), None)


def _find_folder(model: str, revision: str | None) -> tuple[Path, str]:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, _fingerprint_parts(folder)
    if is_uri(model):
        return _fetch_from_store(model)
    if not is_hub_id(model):
        raise ConfigError(f"painter: no such folder: {model}")
    name, at = split_revision(model)
    try:
        wanted = revision or at
        found = Path(snapshot_download(name, revision=wanted, allow_patterns=list(_FILES)))
    except (httpx.HTTPError, OSError, HFValidationError) as error:
        raise ConfigError(
            f"painter: {name} is neither a folder here nor a model that the hub gives out: "
            f"{type(error).__name__}"
        ) from None
    return found, found.name


def _fingerprint_parts(folder: Path) -> str:
    """Hash of the index and of every part."""
    whole = hashlib.sha256(fingerprint(folder).encode())
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        whole.update(f"{part.name} {fingerprint(part)}\n".encode())
    return "sha256:" + whole.hexdigest()[:16]


def _fetch_from_store(uri: str) -> tuple[Path, str]:
    """Fetch every part of a pipeline once per node and version."""
    try:
        if storage.is_local(uri):
            return _find_folder(storage.absolute(uri), None)
        files = [f for f in storage.list_files(uri) if f.uri.endswith(_ENDINGS)]
        # Stores write their addresses in ways of their own; the index says where the folder begins.
        roots = [storage.parent(f.uri) for f in files if storage.base_name(f.uri) == INDEX]
        if not roots:
            raise ConfigError(f"painter: {uri} holds no {INDEX}; {_ADVICE}")
        start = min(map(len, roots)) + 1
        parts: dict[str, list[StoredFile]] = {}
        for file in files:
            parts.setdefault(storage.parent(file.uri)[start:], []).append(file)
        lines = [f"{file.uri[start:]} {file.size} {file.etag}\n" for file in files]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
        here = hashlib.sha256(f"{uri} {digest}".encode()).hexdigest()[:16]
        folder = find_scratch_folder(_CACHE) / f"{storage.base_name(uri)}-{here}"
        for part in sorted(parts):  # the folder itself comes first
            storage.mirror(parts[part], folder / part if part else folder)
    except FileNotFoundError:
        raise ConfigError(f"painter: no such folder: {uri}") from None
    except storage.UnreachableError:
        raise
    except StorageError as error:
        raise ConfigError(f"painter: {uri} cannot be read ({error})") from error
    return folder, f"etag:{digest}"
