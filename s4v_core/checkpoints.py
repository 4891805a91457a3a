"""Finds the files of a checkpoint in a local folder, in a folder of any store, or on the hub.

Fetches them to this node if needed. It does not interpret their contents.
"""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from s4v_core import storage
from s4v_core.environment import find_scratch_folder
from s4v_core.errors import ConfigError, StorageError
from s4v_core.storage import StoredFile

SETTINGS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Names of the files that describe a checkpoint, its tokenizer included."""

WEIGHTS = ("*.safetensors",)
"""Names of the files that are also needed to load it."""

_CACHE = "checkpoints"
"""Folder of fetched checkpoints in a node's scratch space. Nothing is deleted from it: another
engine may be loading from a copy that seems old."""

_HASHED_WHOLE_BYTES = 64 << 20
"""Files up to this size are hashed whole; of a larger one, only the first and the last MiB."""


def locate_checkpoint(
    model: str, patterns: tuple[str, ...] = SETTINGS, revision: str | None = None
) -> tuple[Path, str | None]:
    """Find a checkpoint, fetch its files to this node if needed, and return folder and revision.

    The revision is the commit of a hub model, and None for a local folder (see `fingerprint`). For
    a folder in a store it is a hash of names, sizes and etags: it is the same on every node, as
    long as nobody writes the files again. If a store has no etags, the time of writing is used.

    Args:
        patterns: Names of the files to fetch. A store's are fetched once per node and revision.
        revision: Expected revision of a folder in a store; None accepts any.

    Raises:
        ConfigError: There is no such checkpoint, it cannot be read, there is no room for it, or it
            has another revision than `revision`.
        UnreachableError: Its store does not answer.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, None
    if is_uri(model):
        return _fetch_from_store(model, patterns, revision)
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ConfigError(f"model: no such folder: {model}")
    try:
        found = Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError):
        raise ConfigError(
            f"model: {model} is neither a folder here nor a model that the hub gives out"
        ) from None
    return found, found.name


def is_uri(model: str) -> bool:
    """Whether `model` names a folder of a store, which checkpoint loaders cannot open."""
    return "://" in model


def fingerprint(folder: Path) -> str:
    """Hash of names, sizes and contents; of large files only the first and last MiB are hashed."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        whole.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _HASHED_WHOLE_BYTES:
                whole.update(file.read())
            else:
                whole.update(file.read(1 << 20))
                file.seek(size - (1 << 20))
                whole.update(file.read())
    return "sha256:" + whole.hexdigest()[:16]


def _fetch_from_store(
    uri: str, patterns: tuple[str, ...], revision: str | None
) -> tuple[Path, str | None]:
    try:
        if storage.is_local(uri):  # file://
            return locate_checkpoint(storage.absolute(uri), patterns)
        files = _select_files(uri, storage.list_folder(uri))
        found = f"etag:{_digest(files)}"
        if revision not in (None, found):
            raise ConfigError(
                f"model: {uri} was replaced during the run (found {found}, expected {revision}); "
                "start a new run, with another --output"
            )
        wanted = [file for file in files if _matches(file, patterns)]
        # The URI is hashed into the name, because an etag is only meaningful within one store.
        name = f"{storage.base_name(uri)}-{_digest(wanted, uri.rstrip('/'))}"
        return storage.mirror(wanted, find_scratch_folder(_CACHE) / name), found
    except FileNotFoundError:
        raise ConfigError(f"model: no such folder: {uri}") from None
    except storage.UnreachableError:
        raise
    except StorageError as error:
        problem = error.problem if error.uri == uri else error
        raise ConfigError(f"model: {uri} cannot be read ({problem})") from error


def _select_files(uri: str, files: Sequence[StoredFile]) -> list[StoredFile]:
    """Select the files that belong to a checkpoint; refuse a folder without config or weights."""
    names = {storage.base_name(file.uri) for file in files}
    if "config.json" not in names:
        raise ConfigError(f"model: {uri} holds no config.json; name the folder of a checkpoint")
    if not any(_matches(file, WEIGHTS) for file in files):
        raise ConfigError(
            f"model: {uri} holds no {WEIGHTS[0]}; ray_jobs/convert.py writes such checkpoints"
        )
    return [file for file in files if _matches(file, (*SETTINGS, *WEIGHTS))]


def _matches(file: StoredFile, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(storage.base_name(file.uri), pattern) for pattern in patterns)


def _digest(files: Sequence[StoredFile], uri: str = "") -> str:
    lines = [f"{storage.base_name(file.uri)} {file.size} {file.etag}\n" for file in files]
    return hashlib.sha256("".join([uri, *lines]).encode()).hexdigest()[:16]
